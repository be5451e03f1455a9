"""raycrnn: from a CSV of text images to a trained recogniser, on a laptop or on a Ray cluster.

The floors of the house. A room imports only from floors below it and, without cycles, from its own; nothing on
any floor has an effect at import. tests/test_floors.py keeps it so.

    floor 0 · plain Python, NumPy, Pillow
        errors         what a user can mend
        command        a verb on the command line, from a pydantic model
        config         the configuration tree, JSON, key=value overrides, tf-crnn's flat keys
        storage        files by path or URI; a directory in object storage
        alphabet       units <-> codes
        samples        CSV rows: path and label; why a sample is left out
        order          which rows in which order
        image          bytes -> array; fitting to height and width; frame arithmetic
        distributions  the values that a search tries of a key
        search         a search file: which values of which keys to try
        sampler        the values of the next trial
        transcription  what was read in an image
        augment        one function an effect, one table of them
        metrics        edit distance, CER, WER, accuracy, intervals, calibration
        evaluation     what was read in a labelled set, where its errors lie, two models compared
        speeds         how fast training steps were when measured, for the next run to tell
    floor 1 · torch
        model          the CRNN and nothing else
        ctc            loss, greedy and beam decoding, alignment
        confidence     how likely a transcription is to be exact
    floor 2 · learning without a cluster
        learning       optimizer, schedule, training step, evaluation
        recognizer     model directory <-> images to transcriptions
        pace           how fast training goes, and how much is left
        checkpoint     full training state <-> directory, whole or not at all
        journal        metrics.jsonl, rejected.csv, run.json, TensorBoard
        trials         the trials of a search, on disk
        search_report  report.html of a search
        report         the page of an evaluation
        board          the table of trials on a terminal
        results        what a search ends in
        writers        what predict writes, whole or not at all
        inputs         the images that files, folders and CSVs name
        batching       lines that wait are read together with those of like width
        intake         requests' bodies within limits
        service        a recogniser in service: many requests at a time, new models
        web            the service over HTTP, without Ray
        door           what stands before Ray Serve's proxies
        resume         whether a run goes on, and from where
    floor 3 · Ray
        cluster        connecting, and what of the cluster a run takes
        dataset        CSV -> rows in the object store
        ranges         Ray Data in short executions
        keep           decoded images kept in the object store
        ingest         rows -> Ray Data -> batches of tensors
        monitor        progress from the workers to the terminal, a wish to stop back
        material       what a run learns from, where every worker finds it
        job            what a command hands to its training workers
        worker         one training worker
        fit            a job carried out, in this process or by Ray Train's workers
        trial          one trial of a search, and its share of the cluster
        schedulers     Ray Tune's schedulers, which spare the base
        tuning         a search on Ray Tune
        decodings      a search over decoding alone
        progress       how far a reading of many images is
        reading        images to transcriptions through Ray Data
        train  tune  evaluate  predict  serve
    floor 4 · tools beside the road
        export  split  mnist_numbers  bench  __main__
"""

__version__ = "0.1.0"
