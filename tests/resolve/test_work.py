"""What a restarted pipeline need not do again."""

from skippy.resolve.work import WORK, find_equal_run, finished_jobs, work_digest


def make(tracker, stage, *, parent=None, tags=(), fails=False):
    try:
        with tracker.stage(stage, name=stage, note="n", config={}, parent=parent) as run:
            run.set_tags(dict(tags))
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    return run.run_id


def test_one_digest_for_all_that_decides_a_result():
    assert work_digest("train", "v4", "3") == work_digest("train", "v4", "3")
    assert len({work_digest(*parts) for parts in (("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""))}) == 4


def test_the_newest_finished_run_of_the_same_work_is_found(tracker):
    work = work_digest("train", "v4")
    assert find_equal_run(tracker, "train", work) is None
    make(tracker, "train", tags={WORK: work}, fails=True)
    assert find_equal_run(tracker, "train", work) is None, "a failed one is not done"
    make(tracker, "train", tags={WORK: work})
    newest = make(tracker, "train", tags={WORK: work})
    make(tracker, "train", tags={WORK: work_digest("train", "v3")})
    assert find_equal_run(tracker, "train", work).run_id == newest


def test_a_restarted_pipeline_finds_the_jobs_that_its_predecessors_finished(tracker):
    same, other = work_digest("main", "1"), work_digest("main", "2")
    killed = make(tracker, "main", tags={WORK: same}, fails=True)
    stranger = make(tracker, "main", tags={WORK: other})
    svd = make(tracker, "svd", parent=killed, tags={"skippy.job": "svd"})
    make(tracker, "train", parent=killed, tags={"skippy.job": "train v3"}, fails=True)
    make(tracker, "eval", parent=stranger, tags={"skippy.job": "eval base"})
    make(tracker, "eval", parent=killed)
    assert finished_jobs(tracker, "main", same) == {"svd": svd}
    again = make(tracker, "main", tags={WORK: same}, fails=True)
    newer = make(tracker, "svd", parent=again, tags={"skippy.job": "svd"})
    assert finished_jobs(tracker, "main", same) == {"svd": newer}
