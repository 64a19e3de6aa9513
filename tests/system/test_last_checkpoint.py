"""Training again in a folder: the newest weights are under ``last.ckpt``."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint


def test_training_again_overwrites_last_checkpoint(make_run, tmp_path):
    for steps in (1, 2):
        run = make_run("data.resolution_milestones=[]", "data.height=12", "data.batch_size=4", "data.ref_batch_size=1")
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            callbacks=[ModelCheckpoint(tmp_path / "ckpts", save_last=True, save_top_k=0, every_n_train_steps=1)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(run.system, run.datamodule)
        assert [path.name for path in (tmp_path / "ckpts").iterdir()] == ["last.ckpt"]
        assert torch.load(tmp_path / "ckpts/last.ckpt", weights_only=True)["global_step"] == steps
