//! What a timeline shows, that it says what it leaves out, and that it stays small.

use oracle::{
    check::{Rules, Verdict, linear},
    history::{History, NEVER_NS, OpId},
};
use report::timeline::{Band, Commit, Lane, LogLine, MAX_BYTES, Role, Span, Timeline, render};

use crate::{assert_holds, make};

/// With faults, roles, commits and log lines over the whole history, as many as are asked for.
fn timeline(history: &History, suspects: Vec<OpId>, many: u64) -> Timeline<'_> {
    let end_ns = history.operations.last().map_or(0, |operation| operation.called_ns);
    let at = |n: u64| end_ns / many * n;
    let roles = [Role::Follower, Role::Candidate, Role::Leader, Role::Learner, Role::Down];
    let lane = |member: u64| Lane {
        name: format!("m{}", member + 1),
        spans: (0..many)
            .map(|n| Span {
                from_ns: at(n),
                to_ns: if n + 1 == many { NEVER_NS } else { at(n + 1) },
                role: roles[((n + member) % 5) as usize],
                term: n + 1,
            })
            .collect(),
        commits: (0..many * 20).map(|n| Commit { at_ns: at(n) / 20, index: n }).collect(),
    };
    Timeline {
        title: "seed 7: a read is stale".into(),
        failure: "linearizable: the read missed an acknowledged write of Key(1)".into(),
        replay_command: "make replay SEED=7".into(),
        history,
        suspects,
        faults: (0..many)
            .map(|n| Band {
                what: format!("pause {n}"),
                from_ns: at(n),
                to_ns: at(n) + end_ns / many * 3 / 2,
                member: (n % 3 != 0).then_some((n % 3) as usize),
            })
            .collect(),
        members: (0..u64::from(make::MEMBERS)).map(lane).collect(),
        log: (0..many * 10)
            .map(|n| LogLine {
                at_ns: at(n) / 10,
                member: (n % 4 != 3).then_some((n % 4) as usize),
                text: format!("raft: entry {n} committed at term {}", n / 10 + 1),
            })
            .collect(),
    }
}

/// The row of an operation.
fn row(page: &str, op: OpId) -> &str {
    let start = page.find(&format!("<tr id=op-{} ", op.0)).unwrap_or_else(|| panic!("{op:?} is not shown"));
    page[start..].lines().next().expect("a row is a line")
}

fn rows(page: &str) -> usize {
    page.matches("<tr id=op-").count()
}

#[test]
fn the_impossible_operation_is_explained() {
    let mut history = make::history(3_000, 3);
    let (stale, missed) = make::make_stale(&mut history, 1_500);
    let Verdict::Violation(violation) = linear::check(&history, &Rules::default()).verdict else {
        panic!("the checker finds it")
    };
    assert_eq!(violation.ops.first(), Some(&stale));
    let page = render(&timeline(&history, violation.ops, 40));
    let read = row(&page, stale);
    // What it was told, what it should have been told, and what the write did that it missed.
    assert_holds(read, &["data-s=0", "get k0", "expected rev", "<td class=n>"]);
    assert_holds(row(&page, missed), &["put k0", "data-w", "data-o=ok"]);
    let expected = format!("=v{:08} ", missed.0);
    let model = read.split("expected rev").nth(1).expect("the model's answer");
    assert!(model.contains(&expected), "{expected} is what the model has: {model}");
    assert_holds(
        &page,
        &[
            "seed 7: a read is stale",
            "make replay SEED=7",
            "missed an acknowledged write of k00",
            &format!("first disagrees with <a href=\"#op-{0}\">#{0}</a>", stale.0),
        ],
    );
}

#[test]
fn a_whole_valid_history_is_followed_by_the_model() {
    let history = make::history(2_000, 11);
    let page = render(&timeline(&history, vec![OpId(1_900)], 10));
    assert_holds(&page, &["the model agrees as far as it was followed"]);
    assert!(!page.contains("could be followed up to revision"), "unknown writes are rebuilt from the watch");
    assert!(!page.contains("class=expected"), "no answer is another than the model's");
}

#[test]
fn without_a_watch_reads_tell_what_unknown_writes_did() {
    let mut history = make::history(60, 5);
    history.streams.clear();
    let page = render(&timeline(&history, vec![OpId(59)], 3));
    assert!(!page.contains("class=expected"), "where the model is lost it claims nothing");
}

#[test]
fn all_of_a_short_history_is_shown() {
    let mut history = make::history(150, 2);
    let (stale, _) = make::make_stale(&mut history, 60);
    let page = render(&timeline(&history, vec![stale], 4));
    assert_eq!(rows(&page), 150);
    assert_holds(
        &page,
        &["Shown: 150 of 150 operations; 0 left out", "pause 0", "pause 3", ">leader<", ">down<"],
    );
    for n in 0..40 {
        assert_holds(&page, &[&format!("raft: entry {n} committed")]);
    }
    for operation in &history.operations {
        assert_holds(&page, &[&format!("data-f={} ", operation.called_ns)]);
    }
}

#[test]
fn what_is_left_out_is_counted_and_suspects_are_not() {
    let mut history = make::history(200_000, 9);
    let (stale, missed) = make::make_stale(&mut history, 100_000);
    let far = [OpId(17), OpId(199_000)];
    let page = render(&timeline(&history, vec![stale, missed, far[0], far[1]], 3_000));
    assert!(page.len() <= MAX_BYTES, "{} bytes", page.len());
    for (at, op) in [stale, missed, far[0], far[1]].into_iter().enumerate() {
        assert_holds(row(&page, op), &[&format!("data-s={at}")]);
    }
    for near in stale.0 - 200..=stale.0 + 200 {
        row(&page, OpId(near));
    }
    let shown = rows(&page);
    assert!(shown > 401, "others are related");
    let number = |n: usize| if n < 1000 { n.to_string() } else { format!("{},{:03}", n / 1000, n % 1000) };
    let line =
        format!("Shown: {} of 200,000 operations; {} left out", number(shown), number(200_000 - shown));
    assert_holds(&page, &[&line]);
}

#[test]
fn large_operations_do_not_make_a_large_page() {
    let mut history = make::history(2_000, 4);
    let all = oracle::history::Request::Txn(Box::new(oracle::history::request::Txn {
        compares: Vec::new(),
        success: history.operations.iter().map(|operation| operation.request.clone()).collect(),
        failure: Vec::new(),
    }));
    for operation in &mut history.operations {
        operation.request = all.clone();
    }
    let mut timeline = timeline(&history, (0..2_000).map(OpId).collect(), 100);
    timeline.failure = "<\"".repeat(10_000_000);
    timeline.log.iter_mut().for_each(|line| line.text = "&".repeat(100_000));
    timeline.faults.iter_mut().for_each(|band| band.what = "\u{1f9ea}".repeat(100_000));
    let page = render(&timeline);
    assert!(page.len() <= MAX_BYTES, "{} bytes", page.len());
    assert_holds(row(&page, OpId(0)), &["characters more", "data-s=0"]);
}

#[test]
fn names_and_texts_cannot_open_tags() {
    use oracle::history::{record::Recorder, *};
    let mut recorder = Recorder::default();
    let key = recorder.key(b"</script><script>alert(1)</script>");
    let value = recorder.value(b"\"><img/src=x>");
    recorder.operation(Operation {
        client: Client(0),
        member: Member(0),
        called_ns: 5,
        returned_ns: 9,
        request: Request::Put(request::Put::plain(key, value)),
        outcome: Outcome::Refused(Refusal::Unmodelled),
    });
    let (history, _) = recorder.finish();
    let hostile = "<img src=x onerror=alert(1)>\"'";
    let mut timeline = timeline(&history, vec![OpId(0)], 2);
    (timeline.title, timeline.failure) = (hostile.into(), hostile.into());
    timeline.replay_command = hostile.into();
    timeline.members[0].name = hostile.into();
    timeline.faults[0].what = hostile.into();
    timeline.log[0].text = hostile.into();
    let page = render(&timeline);
    assert!(!page.contains("<img"), "no tag comes from data");
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</script").count(), 1);
    assert_holds(&page, &["&lt;/script&gt;&lt;script&gt;alert(1)", "refused: Unmodelled"]);
}

#[test]
fn nothing_is_loaded_from_anywhere() {
    let history = make::history(50, 1);
    let page = render(&timeline(&history, vec![OpId(20)], 2));
    for way in ["http://", "https://", "src=", "@import", "url(", "fetch(", "<link"] {
        let local = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!local.contains(way), "{way}");
    }
    assert_holds(&page, &["Content-Security-Policy", "default-src 'none'"]);
}

#[test]
fn nothing_to_show_is_no_panic() {
    let empty = History::default();
    assert_holds(&render(&timeline(&empty, vec![OpId(3)], 1)), &["0 of 0 operations", "names no operation"]);
    let history = make::history(10, 1);
    let page = render(&timeline(&history, Vec::new(), 1));
    assert_eq!(rows(&page), 10);
    assert_holds(&page, &["names no operation"]);
    assert_eq!(rows(&render(&timeline(&history, vec![OpId(u32::MAX)], 1))), 10);
}
