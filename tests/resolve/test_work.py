"""What a restarted pipeline need not do again."""

from skippy.errors import AdapterError
from skippy.resolve.runs import find_run
from skippy.resolve.work import find_equal_run, take_over, work_digest
from skippy.tracking.tags import Tag


def make(tracker, stage, *, parent=None, tags=(), fails=False):
    try:
        with tracker.stage(stage, name=stage, note="n", config={}, parent=parent) as run:
            run.set_tags(dict(tags))
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    return run.run_id


def believe(_):
    """Whatever it made is there."""


def test_one_digest_for_all_that_decides_a_result():
    assert work_digest("train", "v4", "3") == work_digest("train", "v4", "3")
    assert len({work_digest(*parts) for parts in (("a", "b"), ("ab",), ("b", "a"), ("a", "b", ""))}) == 4


def test_the_newest_finished_run_of_the_same_work_is_found(tracker):
    work = work_digest("train", "v4")
    assert find_equal_run(tracker, "train", work, believe) is None
    make(tracker, "train", tags={Tag.WORK: work}, fails=True)
    assert find_equal_run(tracker, "train", work, believe) is None, "a failed one is not done"
    make(tracker, "train", tags={Tag.WORK: work})
    newest = make(tracker, "train", tags={Tag.WORK: work})
    make(tracker, "train", tags={Tag.WORK: work_digest("train", "v3")})
    assert find_equal_run(tracker, "train", work, believe).run_id == newest


def test_what_a_run_made_is_looked_at_before_it_is_believed(tracker):
    work = work_digest("train", "v4")
    done = make(tracker, "train", tags={Tag.WORK: work})
    assert find_equal_run(tracker, "train", work, believe).run_id == done

    def gone(_):
        raise AdapterError("There is no adapter here.")

    assert find_equal_run(tracker, "train", work, gone) is None


def test_who_takes_a_run_over_leads_to_it(tracker):
    done = make(tracker, "train", tags={Tag.WORK: "w"})
    with tracker.stage("train", name="again", note="n", config={}) as run:
        take_over(tracker.runs.get(done), run, tracker)
    assert find_run(tracker, "train", run.run_id).run_id == done
    assert done in tracker.runs.get(run.run_id).tags["mlflow.note.content"]
