"""What ``launch.py`` does once torch may be imported; works on upstream's ``threestudio`` as well as on this one."""
