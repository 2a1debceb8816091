//! The order of what waits.

use super::*;
use crate::outbox::entry::{Progress, id_of};
use crate::protocol::Envelope;

const MINUTE: u64 = 60;
const START: i64 = 1_800_000_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(START).plus(Duration::from_secs(seconds))
}

fn entry(number: u64, mailbox: &str, device: &str, arrived: u64) -> Entry {
    Entry {
        id: id_of(number),
        mailbox: mailbox.into(),
        device: device.into(),
        peer: None,
        arrived: at(arrived),
        envelope: Envelope::default(),
        size: 1,
        bounce: false,
        mends: Vec::new(),
        progress: Progress::default(),
    }
}

fn queue(entries: &[(u64, &str)]) -> Queue {
    let mut queue = Queue::new(&SpoolSettings::default());
    for (number, device) in entries {
        queue.arrived(entry(*number, "a", device, 0));
    }
    queue
}

fn number(job: &Job) -> u64 {
    number_of(&job.entry)
}

fn number_of(entry: &Entry) -> u64 {
    crate::outbox::entry::millis_of(&entry.id).unwrap()
}

fn all(queue: &mut Queue, now: u64) -> Vec<Job> {
    std::iter::from_fn(|| queue.next("a", at(now))).collect()
}

fn numbers(jobs: &[Job]) -> Vec<u64> {
    jobs.iter().map(number).collect()
}

fn held(wait: Option<u64>) -> Held {
    Held { reason: "no".into(), wait: wait.map(Duration::from_secs), remedy: None }
}

fn hold(queue: &mut Queue, job: &Job, wait: Option<u64>, now: u64) -> Hold {
    queue.held(job, job.entry.clone(), &held(wait), at(now)).0
}

fn take_over(queue: &mut Queue, entries: Vec<Entry>) {
    queue.take_over(Survey { entries, ..Survey::default() });
}

/// A verdict of later, as the dispatcher tells it.
fn later(queue: &mut Queue, job: &Job, now: u64) -> Option<Hold> {
    let mut entry = job.entry.clone();
    entry.progress.attempts += 1;
    entry.progress.next_try = next_try(&queue.settings, &entry, at(now));
    assert!(entry.progress.next_try.is_some(), "given up");
    queue.later(job, entry)
}

#[test]
fn a_lane_goes_in_order_and_lanes_go_beside_each_other() {
    let mut queue = queue(&[(3, "x"), (1, "x"), (2, "y"), (4, "z")]);
    let first = all(&mut queue, 0);
    assert_eq!(numbers(&first), [1, 2, 4]);
    assert!(queue.gone(&first[1]).is_none());
    assert_eq!(numbers(&all(&mut queue, 0)), [0; 0], "y has no more, x is at work");
    queue.gone(&first[0]);
    let third = all(&mut queue, 0);
    assert_eq!(numbers(&third), [3]);
    queue.gone(&third[0]);
    queue.gone(&first[2]);
    assert!(queue.is_empty());
    queue.tidy(at(0));
    assert!(queue.mailboxes().is_empty());
}

#[test]
fn one_message_that_waits_lets_the_others_of_its_lane_pass() {
    let mut queue = queue(&[(1, "x"), (2, "x")]);
    let first = queue.next("a", at(0)).unwrap();
    later(&mut queue, &first, 0);
    let second = all(&mut queue, 0);
    assert_eq!(numbers(&second), [2]);
    queue.gone(&second[0]);
    let mut waits = Vec::new();
    let mut now = 0;
    for _ in 0..6 {
        let before = now;
        let job = loop {
            match queue.next("a", at(now)) {
                Some(job) => break job,
                None => now += 1,
            }
        };
        waits.push((now - before) / MINUTE);
        later(&mut queue, &job, now);
    }
    assert_eq!(waits, [1, 5, 15, 60, 60, 60]);
}

#[test]
fn a_mailbox_is_held_by_the_schedule_and_let_go_by_the_first_success() {
    let mut queue = queue(&[(1, "x"), (2, "x"), (3, "y")]);
    queue.arrived(entry(9, "b", "x", 0));
    let mut now = 0;
    for minutes in [1, 5, 15, 60, 60] {
        let job = queue.next("a", at(now)).unwrap();
        let hold = hold(&mut queue, &job, None, now);
        assert_eq!((hold.since, hold.until), (at(0), at(now + minutes * MINUTE)));
        now += minutes * MINUTE - 1;
        assert!(queue.next("a", at(now)).is_none(), "nothing overtakes");
        now += 1;
    }
    assert!(queue.next("b", at(0)).is_some(), "another mailbox goes on");
    let probe = all(&mut queue, now);
    assert_eq!(probe.len(), 1, "one at a time while it is held");
    let former = queue.gone(&probe[0]).unwrap();
    assert_eq!(former.failures, 5);
    let others = if number(&probe[0]) == 3 { vec![1] } else { vec![2, 3] };
    assert_eq!(numbers(&all(&mut queue, now)), others);
}

/// The schedule begins anew behind a success.
#[test]
fn each_outage_has_its_own_schedule() {
    let mut queue = queue(&[(1, "x"), (2, "x"), (3, "x")]);
    let job = queue.next("a", at(0)).unwrap();
    hold(&mut queue, &job, None, 0);
    let job = queue.next("a", at(60)).unwrap();
    assert_eq!(hold(&mut queue, &job, None, 60).until, at(360));
    let job = queue.next("a", at(360)).unwrap();
    assert!(queue.gone(&job).is_some());
    let job = queue.next("a", at(361)).unwrap();
    let hold = hold(&mut queue, &job, None, 361);
    assert_eq!((hold.failures, hold.until), (1, at(421)));
}

#[test]
fn what_was_under_way_together_fails_once() {
    let mut queue = queue(&[(1, "x"), (2, "y"), (3, "z"), (4, "x")]);
    let jobs = all(&mut queue, 0);
    assert_eq!(jobs.len(), 3);
    assert_eq!(hold(&mut queue, &jobs[0], None, 0).until, at(60));
    let second = hold(&mut queue, &jobs[1], None, 20);
    assert_eq!((second.failures, second.until), (1, at(80)));
    assert!(queue.gone(&jobs[2]).is_none(), "a late success does not let the others run into it");
    assert!(queue.next("a", at(79)).is_none());
    let probe = queue.next("a", at(80)).unwrap();
    assert!(queue.gone(&probe).is_some());
}

#[test]
fn the_providers_own_wait_counts() {
    let mut queue = queue(&[(1, "x")]);
    let job = queue.next("a", at(0)).unwrap();
    assert_eq!(hold(&mut queue, &job, Some(600), 0).until, at(600));
    queue.try_now();
    assert!(queue.next("a", at(599)).is_none(), "nobody shortens it");
    let job = queue.next("a", at(600)).unwrap();
    assert_eq!(hold(&mut queue, &job, Some(0), 600).until, at(601));
    let job = queue.next("a", at(601)).unwrap();
    assert_eq!(hold(&mut queue, &job, Some(1 << 40), 601).until, at(601 + 86_400));
    // what is under way at once: the longest counts
    let mut queue = super::tests::queue(&[(1, "x"), (2, "y")]);
    let jobs = all(&mut queue, 0);
    hold(&mut queue, &jobs[0], Some(900), 0);
    assert_eq!(hold(&mut queue, &jobs[1], None, 0).until, at(900));
}

#[test]
fn a_hold_by_schedule_ends_when_somebody_has_acted() {
    let mut queue = queue(&[(1, "x")]);
    let job = queue.next("a", at(0)).unwrap();
    hold(&mut queue, &job, None, 0);
    queue.try_now();
    let job = queue.next("a", at(1)).unwrap();
    assert_eq!(hold(&mut queue, &job, None, 1).failures, 2, "and goes on as before");
}

/// A message that makes the server say it is busy is not the end of all mail.
#[test]
fn probes_change_between_lanes() {
    let mut queue = queue(&[(1, "x"), (2, "y")]);
    let jobs = all(&mut queue, 0);
    for job in &jobs {
        hold(&mut queue, job, None, 0);
    }
    let mut probed = Vec::new();
    for _ in 0..4 {
        queue.try_now();
        let job = queue.next("a", at(1)).unwrap();
        probed.push(number(&job));
        hold(&mut queue, &job, None, 1);
    }
    assert_eq!(probed, [1, 2, 1, 2]);
}

#[test]
fn what_is_too_old_is_given_up_only_after_the_schedules_waits() {
    let day = 86_400;
    let mut queue = queue(&[]);
    take_over(
        &mut queue,
        vec![entry(1, "a", "x", 0), entry(2, "a", "x", day), entry(3, "a", "y", 4 * day)],
    );
    let now = 5 * day;
    let first = queue.next("a", at(now)).unwrap();
    assert_eq!(number(&first), 1);
    let (mut job, mut given_up) = (first.clone(), Vec::new());
    for _ in 0..5 {
        let (_, expired) = queue.held(&job, job.entry.clone(), &held(None), at(now));
        given_up.push(expired.iter().map(number_of).collect::<Vec<_>>());
        queue.try_now();
        job = queue.next("a", at(now)).unwrap();
    }
    assert_eq!(given_up, [vec![], vec![], vec![], vec![], vec![1]]);
    queue.put_back(job.entry);
    queue.arrived(first.entry.clone());
    assert_eq!(queue.mailboxes.values().map(|m| m.lanes["x"].waiting.len()).sum::<usize>(), 1);
    let waiting = |queue: &Queue| queue.mailboxes["a"].lanes["x"].waiting.contains_key(&id_of(1));
    take_over(&mut queue, vec![first.entry.clone()]);
    assert!(!waiting(&queue), "it is still on its way out");
    queue.given_up(&id_of(1));
    take_over(&mut queue, vec![first.entry]);
    assert!(waiting(&queue), "a person wants it tried again");
    let mut renewed = entry(5, "a", "x", 0);
    assert!(next_try(&queue.settings, &renewed, at(now)).is_some());
    renewed.progress.attempts = 5;
    assert_eq!(next_try(&queue.settings, &renewed, at(now)), None);
    renewed.progress.renewed = Some(at(now - 1));
    assert!(next_try(&queue.settings, &renewed, at(now)).is_some());
}

#[test]
fn a_clock_that_is_set_back_keeps_nothing_waiting() {
    let year = 365 * 86_400;
    let mut queue = queue(&[]);
    queue.arrived(entry(1, "a", "x", year));
    let job = queue.next("a", at(year)).unwrap();
    hold(&mut queue, &job, None, year);
    let job = queue.next("a", at(0)).unwrap();
    let mut waiting = job.entry.clone();
    waiting.progress.next_try = Some(at(year));
    queue.later(&job, waiting);
    assert!(queue.next("a", at(0)).is_some());
}

#[test]
fn a_change_by_another_process_is_taken_over() {
    let mut queue = queue(&[(1, "x"), (2, "x"), (3, "x")]);
    let first = queue.next("a", at(0)).unwrap();
    // 2 was dropped, 4 has come, and 1 is still listed
    take_over(
        &mut queue,
        vec![entry(1, "a", "x", 0), entry(3, "a", "x", 0), entry(4, "a", "x", 0)],
    );
    assert!(queue.next("a", at(0)).is_none(), "1 is at work");
    queue.gone(&first);
    let mut order = Vec::new();
    while let Some(job) = queue.next("a", at(0)) {
        order.push(number(&job));
        queue.gone(&job);
    }
    assert_eq!(order, [3, 4]);
    // one that has failed and is tried again by a person
    take_over(&mut queue, vec![entry(3, "a", "x", 0)]);
    assert!(queue.next("a", at(0)).is_some());
    // a late word of an arrival
    queue.arrived(entry(4, "a", "x", 0));
    queue.tidy(at(0));
    assert!(queue.next("a", at(0)).is_none());
}

/// By a person's mark, which the spool tells so.
#[test]
fn a_message_that_waits_is_due_when_a_person_wants_it() {
    let mut queue = queue(&[(1, "x")]);
    let job = queue.next("a", at(0)).unwrap();
    let mut known = job.entry.clone();
    known.progress.done.push("one".into());
    known.progress.next_try = Some(at(60));
    queue.later(&job, known.clone());
    assert!(queue.next("a", at(1)).is_none());
    take_over(&mut queue, vec![known]);
    assert!(queue.next("a", at(1)).is_none());
    // its progress could not be written
    take_over(&mut queue, vec![entry(1, "a", "x", 0)]);
    let job = queue.next("a", at(1)).unwrap();
    assert_eq!(job.entry.progress.done, ["one"]);
}

#[test]
fn a_message_is_given_out_once_however_often_it_is_told() {
    let mut queue = queue(&[(1, "x"), (1, "x")]);
    let job = queue.next("a", at(0)).unwrap();
    queue.arrived(job.entry.clone());
    take_over(&mut queue, vec![job.entry.clone()]);
    assert!(queue.next("a", at(0)).is_none());
    queue.put_back(job.entry);
    assert_eq!(all(&mut queue, 0).len(), 1);
}
