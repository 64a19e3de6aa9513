"""Moving models to train on: ``gltf`` reads GLB files, ``pack`` packs them into one small file, ``creature`` and
``bestiary`` make animated creatures by code, ``captions`` (words in ``caption_words``) says what an asset is and does,
``data_sheet`` shows a pack.
"""
