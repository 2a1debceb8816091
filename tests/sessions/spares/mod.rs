//! Connections that stand ready for the next login: when there are any, how many, how old, and what becomes of a login
//! that meets one which is over.
//!
//! Time is paused where it matters, and moved by hand (`host`); sockets go on meanwhile.

mod host;

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Authority, Fake, House, MAILBOX, Settings, is_welcome, login_command};
use gatepost::protocol::Rejection;
use gatepost::vocabulary::{Protocol, TlsMode};
use host::{Host, Manner, Site, pass, ready, settle_long};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn a_login_shows_its_token_to_a_connection_that_is_open_and_says_nothing_else() {
    for protocol in Protocol::ALL {
        let mut site = ready(protocol).await;
        site.log_in().await;
        // The token was its first line, and the answer was to that.
        assert_eq!(site.host.tokens(), [1, 2], "{protocol}");
        // Another one in its place, and one more for the second login.
        site.host.until_waiting(&[3, 4]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn none_without_a_login_that_went_well() {
    for protocol in Protocol::ALL {
        let mut site = Site::new(protocol, 2).await;
        pass(60).await;
        assert_eq!(site.host.opened(), 0, "{protocol}");
        site.host.set(1, Manner::Refuses);
        assert!(matches!(site.try_log_in().await, Err(Rejection::Token { .. })), "{protocol}");
        settle_long().await;
        assert_eq!(site.host.opened(), 1, "{protocol}: a token that is refused");
    }
}

#[tokio::test(start_paused = true)]
async fn none_if_the_configuration_wants_none() {
    let mut site = Site::new(Protocol::Imap, 0).await;
    for _ in 0..3 {
        site.log_in().await;
    }
    settle_long().await;
    assert_eq!((site.host.opened(), site.host.tokens().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn as_many_as_there_were_logins_lately_and_never_more_than_the_setting() {
    let mut site = Site::new(Protocol::Imap, 3).await;
    for login in 1..=6_usize {
        site.log_in().await;
        site.host.until_count(login.min(3)).await;
        settle_long().await;
        assert_eq!(site.host.waiting().len(), login.min(3), "behind login {login}");
        pass(20).await;
    }
    // The last three were 60, 40 and 20 seconds ago.
    for left in [(269, 3), (3, 2), (20, 1), (20, 0)] {
        pass(left.0).await;
        site.host.until_count(left.1).await;
    }
    let opened = site.host.opened();
    pass(600).await;
    assert_eq!((site.host.opened(), site.host.waiting().len()), (opened, 0));
    site.log_in().await;
    site.host.until_count(1).await;
}

#[tokio::test(start_paused = true)]
async fn another_one_takes_its_place_before_it_is_too_old() {
    for protocol in Protocol::ALL {
        let mut site = ready(protocol).await;
        pass(44).await;
        assert_eq!((site.host.opened(), site.host.waiting()), (2, vec![2]), "{protocol}");
        pass(2).await;
        site.host.until_waiting(&[3]).await;
        site.log_in().await;
        assert_eq!(site.host.tokens(), [1, 3], "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_old_is_not_used_if_there_is_no_other() {
    let mut site = ready(Protocol::Imap).await;
    site.host.set(3, Manner::Absent);
    pass(54).await;
    assert_eq!(site.host.waiting(), [2]);
    pass(2).await;
    site.host.until_waiting(&[]).await;
    site.host.set(3, Manner::Admits);
    site.log_in().await;
    assert!(!site.host.tokens().contains(&2));
}

#[tokio::test(start_paused = true)]
async fn a_client_never_learns_of_one_that_was_over() {
    for protocol in Protocol::ALL {
        for manner in [Manner::Closes, Manner::Leaves] {
            let mut site = ready(protocol).await;
            site.host.set_one(2, manner);
            site.log_in().await;
            let tokens = site.host.tokens();
            assert_eq!((tokens.len(), &tokens[..2]), (3, &[1, 2][..]), "{protocol} {manner:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_silent_is_given_up_in_time_for_another() {
    for protocol in Protocol::ALL {
        let mut site = ready(protocol).await;
        site.host.set_one(2, Manner::Silent);
        let clock = async {
            settle_long().await;
            pass(11).await;
            std::future::pending().await
        };
        tokio::select! {
            answer = site.try_log_in() => answer.unwrap(),
            () = clock => {}
        }
        assert_eq!(site.host.tokens().len(), 3, "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_not_asked_for_twice() {
    for protocol in Protocol::ALL {
        let mut site = ready(protocol).await;
        site.host.set(2, Manner::Refuses);
        let answer = site.try_log_in().await;
        assert!(matches!(answer, Err(Rejection::Token { .. })), "{protocol}: {answer:?}");
        assert_eq!(site.host.tokens(), [1, 2], "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_closes_or_speaks_while_it_waits_is_thrown_away() {
    for protocol in Protocol::ALL {
        for shouts in [false, true] {
            let mut site = ready(protocol).await;
            if shouts { &site.host.shout } else { &site.host.kick }.notify_one();
            site.host.until_waiting(&[]).await;
            settle_long().await;
            assert_eq!(site.host.opened(), 2, "{protocol}: not in the same moment");
            site.log_in().await;
            assert_eq!(site.host.tokens(), [1, 3], "{protocol}");
            pass(2).await;
            site.host.until_count(2).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_left_alone() {
    let mut site = Site::new(Protocol::Imap, 8).await;
    for _ in 0..8 {
        site.log_in().await;
    }
    site.host.until_count(8).await;
    let before = site.host.opened();
    site.host.set(before + 1, Manner::Absent);
    pass(330).await;
    let tries = site.host.opened() - before;
    // Eight at once, then one after 1, 2, 4 … 60 seconds, or half of that.
    assert!((12..=26).contains(&tries), "{tries} tries");
}

#[tokio::test(start_paused = true)]
async fn they_end_with_their_keeper_unless_another_one_takes_over() {
    for protocol in Protocol::ALL {
        let mut site = ready(protocol).await;
        let former = std::mem::replace(&mut site.keeper, tokio::spawn(async {}));
        let second = tokio::spawn(site.server.keep_spares(1));
        former.abort();
        settle_long().await;
        assert_eq!((site.host.opened(), site.host.waiting()), (2, vec![2]), "{protocol}");
        site.log_in().await;
        assert_eq!(site.host.tokens(), [1, 2], "{protocol}");
        site.host.until_waiting(&[3]).await;
        second.abort();
        site.host.until_waiting(&[]).await;
        site.log_in().await;
        settle_long().await;
        assert_eq!((site.host.opened(), site.host.waiting().len()), (4, 0), "{protocol}");
    }
}

/// A proxy with spare connections in front of these hosts.
async fn house(hosts: &[(Protocol, &Fake)], authority: &Authority) -> House {
    let endpoint = |(protocol, fake): &(_, &Fake)| (*protocol, fake.endpoint(TlsMode::Implicit));
    let instead = hosts.iter().map(endpoint).collect();
    let trusted = vec![authority.pem()];
    House::start(Settings { instead, trusted, spares: 2, ..Settings::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_knocks_makes_none_and_a_stop_leaves_none() {
    let authority = Authority::new();
    for protocol in Protocol::ALL {
        let host = Host::new(protocol);
        let fake = host.start(&authority).await;
        let house = house(&[(protocol, &fake)], &authority).await;
        let learned = u64::from(protocol == Protocol::Smtp);
        for _ in 0..3 {
            let mut client = house.open(protocol, TlsMode::None).await;
            client.send(login_command(protocol, MAILBOX, "wrong")).await;
            client.answer(protocol).await;
        }
        sleep(Duration::from_millis(200)).await;
        assert_eq!(host.opened(), learned, "{protocol}");
        let first = house.log_in(protocol).await;
        for _ in 0..1000 {
            if host.waiting().len() == 1 {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        let spare = host.waiting();
        assert_eq!(spare.len(), 1, "{protocol}");
        let second = house.log_in(protocol).await;
        assert_eq!(host.tokens().last(), spare.last(), "{protocol}");
        drop(second);
        drop(first);
        house.stop().await;
        let opened = host.opened();
        sleep(Duration::from_millis(200)).await;
        assert_eq!((host.opened(), host.waiting().len()), (opened, 0), "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_logins_at_once_and_a_stale_token_go_their_usual_way() {
    let settings = || Settings { spares: 2, ..Settings::default() };
    for protocol in Protocol::ALL {
        let house = Arc::new(House::start(settings()).await);
        drop(house.log_in(protocol).await);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let house = Arc::clone(&house);
            // Of SMTP's sessions there may be three at a time.
            clients.spawn(async move { drop(house.log_in(protocol).await) });
        }
        assert_eq!(clients.join_all().await.len(), 12);
        house.control().revoke_access_tokens();
        let tokens = house.control().token_requests();
        let mut client = house.open(protocol, TlsMode::None).await;
        let answer = house.try_log_in(&mut client, protocol).await;
        assert!(is_welcome(protocol, &answer), "{protocol}: {answer}");
        assert_eq!(house.control().token_requests() - tokens, 1, "{protocol}: renewals");
    }
}
