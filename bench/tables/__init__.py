"""Every table in the documents that holds measurements, made from bench/results.

python -m bench.tables            fill README.md, docs/*.md and bench/README.md
python -m bench.tables --check    change nothing; exit code 1 where a document is stale
python -m bench.tables --show NAME

A document names the table that it wants between two markers, and the command fills in the rest:

    <!-- table: NAME -->
    <!-- end -->

The names:

    what `default` reaches      expect, goals, erasing, draws, more-images, no-images,
                                retuned, digits
    its examination, its parts  verdicts, verdict-list, ablation
    the paper and its rivals    rivals, rivals-one-shot, agreement, awm-parts, fine-tuning, clp,
                                anp-thresholds, elsewhere, authors-code
    time                        speed, speed-goals, losses, former-default, profile,
                                profile-details, calls, growth
    networks trained here       training
"""
