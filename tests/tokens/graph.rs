//! Tokens for Microsoft Graph beside those for mail, under paused time: one sign-in, one request at a time, and
//! faults that stay apart.

use std::sync::Arc;
use std::time::Duration;

use crate::support_tokens::paused::{KINDS, Kind, Reply, World, accounts_via};
use gatepost::oauth::{AccessToken, NoToken, Principal, TokenError};
use gatepost::vocabulary::{Cause, Resource};
use tokio::task::JoinSet;

const MINUTE: u64 = 60;

/// Mailboxes of which the second one's mail goes out by `via`.
async fn world(kind: Kind, via: &str) -> World {
    let mut world = World::new(kind).await;
    world.accounts = accounts_via(kind, "one", "mail", via);
    world.start().await;
    world
}

fn for_graph(world: &World) -> usize {
    world.script.asked().iter().filter(|asked| asked.resource == Resource::Graph).count()
}

/// A delivery of the second mailbox's, which waits for its token.
async fn token(world: &World) -> Result<AccessToken, NoToken> {
    let tokens = world.tokens();
    let answer = tokio::select! {
        biased;
        answer = tokens.get_for(&world.accounts[1], Resource::Graph) => Some(answer),
        () = world.settle() => None,
    };
    answer.expect("an answer without a wait")
}

fn no_consent() -> Reply {
    let reason = "invalid_grant: AADSTS65001: The user or administrator has not consented.";
    Reply::Fail(TokenError::permanent(reason, Cause::SignIn))
}

#[tokio::test(start_paused = true)]
async fn asked_for_on_demand_alone_unless_an_account_goes_by_graph() {
    for kind in KINDS {
        let world = world(kind, "[\"smtp\"]").await;
        world.seconds(100 * MINUTE).await;
        assert_eq!(for_graph(&world), 0, "{kind:?}");
        let first = token(&world).await.unwrap();
        assert_eq!(token(&world).await.unwrap().generation, first.generation);
        assert_eq!(for_graph(&world), 1);
        world.seconds(100 * MINUTE).await;
        assert_eq!(for_graph(&world), 1, "{kind:?}: nobody asked again");
        assert_ne!(token(&world).await.unwrap().token, first.token, "{kind:?}: it has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn kept_fresh_for_accounts_that_go_by_graph_also_over_a_restart() {
    for kind in KINDS {
        let mut world = world(kind, "[\"smtp\", \"graph\"]").await;
        world.seconds(1).await;
        assert_eq!((for_graph(&world), world.script.count()), (1, 2), "{kind:?}");
        let first = token(&world).await.unwrap();
        world.restart().await;
        assert_eq!(token(&world).await.unwrap().token, first.token, "{kind:?}: from the store");
        world.seconds(29 * MINUTE + 30).await;
        assert_eq!(for_graph(&world), 2, "{kind:?}");
        assert_ne!(token(&world).await.unwrap().token, first.token);
        // The first mailbox has the same sign-in, and so the same token.
        let other = world.tokens().get_for(&world.accounts[0], Resource::Graph).await.unwrap();
        assert_eq!(other.token, token(&world).await.unwrap().token);
    }
}

#[tokio::test(start_paused = true)]
async fn one_request_at_a_time_and_each_with_the_newest_refresh_token() {
    let world = world(Kind::Person, "[\"graph\", \"smtp\"]").await;
    for round in 0..20 {
        world.script.open(false);
        let mut crowd = JoinSet::new();
        for index in 0..200 {
            let (tokens, account) = (world.tokens(), Arc::clone(&world.accounts[index % 2]));
            crowd.spawn(async move {
                match index % 4 < 2 {
                    true => tokens.get(&account).await.is_ok(),
                    false => tokens.get_for(&account, Resource::Graph).await.is_ok(),
                }
            });
        }
        // Both are due in one of these, sooner or later.
        world.seconds(9 * MINUTE + round).await;
        world.script.open(true);
        assert!(crowd.join_all().await.into_iter().all(|had| had), "round {round}");
        world.seconds(5).await;
    }
    let asked = world.script.asked();
    assert_eq!(world.script.most_under_way(), 1);
    for (index, asked) in asked.iter().enumerate() {
        assert_eq!(asked.refresh_token.as_deref(), Some(&*format!("refresh-{index}")));
    }
    let graph = for_graph(&world);
    assert!(graph > 5 && asked.len() - graph > 5, "{graph} of {}", asked.len());
    let newest = format!("refresh-{}", asked.len());
    assert_eq!(world.refresh_token().await.as_deref(), Some(&*newest));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_that_came_with_graphs_is_on_disk_before_that_is_used() {
    let world = world(Kind::Person, "[\"smtp\"]").await;
    let mail = world.login().unwrap();
    let lock = world.lock().await;
    let tokens = world.tokens();
    let account = Arc::clone(&world.accounts[1]);
    let waiting =
        tokio::spawn(async move { tokens.get_for(&account, Resource::Graph).await.map(drop) });
    world.seconds(3).await;
    assert_eq!(for_graph(&world), 1);
    drop(lock);
    // SQLite's own wait for the lock is by the real clock.
    for _ in 0..200 {
        world.settle().await;
        if world.refresh_token().await.as_deref() == Some("refresh-2") {
            break;
        }
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(world.refresh_token().await.as_deref(), Some("refresh-2"));
    waiting.await.unwrap().ok();
    assert!(token(&world).await.is_ok());
    assert_eq!(world.script.count(), 2, "the granted one was not lost");
    assert_eq!(world.login().unwrap().generation, mail.generation, "mail has noticed nothing");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_and_the_other_resources_stays() {
    for kind in KINDS {
        let world = world(kind, "[\"graph\"]").await;
        world.seconds(1).await;
        let (mail, graph) = (world.login().unwrap(), token(&world).await.unwrap());
        let (tokens, account) = (world.tokens(), &world.accounts[1]);
        let other = tokens.get_other_for_graph(account, &graph).await.unwrap().unwrap();
        assert_ne!(other.token, graph.token);
        assert_eq!(world.login().unwrap().generation, mail.generation);
        // Graph's renewal is no new mail token: a login whose token was rejected gets really another one.
        let imap = gatepost::vocabulary::Protocol::Imap;
        let fresh = tokens.get_other(account, imap, &mail).await.unwrap().unwrap();
        assert_ne!(fresh.token, mail.token);
        tokens.give_up(account, None);
        assert!(tokens.get_other_for_graph(account, &other).await.is_none());
        assert!(tokens.get_other(account, imap, &fresh).await.is_some(), "another door");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_to_graph_alone_ends_no_sign_in() {
    for kind in KINDS {
        let mut world = World::new(kind).await;
        world.accounts = accounts_via(kind, "one", "mail", "[\"graph\", \"smtp\"]");
        world.script.graph(Some(no_consent()));
        world.start().await;
        world.seconds(1).await;
        let refused = token(&world).await.unwrap_err();
        assert!(matches!(&refused, NoToken::SignInNeeded(why) if why.contains("65001")));
        // Mail is renewed as ever, and the one who looks sees what is wrong with Graph.
        world.seconds(90 * MINUTE).await;
        assert!(world.login().is_ok() && !world.sign_in_is_needed().await, "{kind:?}");
        let fault = world.command.fault(&world.key(), Resource::Graph).await.unwrap().unwrap();
        assert!(fault.error.contains("AADSTS65001") && fault.cause == Some(Cause::SignIn));
        let tries = for_graph(&world);
        assert!((2..=3).contains(&tries), "{kind:?}: {tries} in an hour and a half");
        // Those who wait have it tried again, but not each of them.
        for _ in 0..30 {
            token(&world).await.unwrap_err();
            world.seconds(10).await;
        }
        assert!(for_graph(&world) - tries <= 6, "{} in five minutes", for_graph(&world) - tries);
        // An administrator consents; nobody signs in anew.
        world.script.graph(None);
        world.seconds(61).await;
        assert!(token(&world).await.is_ok());
        world.seconds(5).await;
        assert_eq!(world.command.fault(&world.key(), Resource::Graph).await.unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_that_has_ended_for_mail_too_is_asked_no_more() {
    let mut world = World::new(Kind::Person).await;
    world.accounts = accounts_via(Kind::Person, "one", "mail", "[\"graph\"]");
    world.script.graph(Some(Reply::permanent()));
    world.script.usual(Reply::permanent());
    world.start().await;
    world.seconds(5).await;
    assert_eq!(world.script.count(), 2);
    world.seconds(300 * MINUTE).await;
    token(&world).await.unwrap_err();
    world.restart().await;
    world.seconds(300 * MINUTE).await;
    assert_eq!(world.script.count(), 2, "each resource has asked once, in two lives");
    world.script.graph(None);
    world.script.usual(Reply::life(3600));
    world.sign_in(50, Duration::ZERO).await;
    world.tokens().store_changed();
    world.seconds(5).await;
    assert!(world.login().is_ok() && token(&world).await.is_ok());
    assert_eq!(world.script.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn nobody_has_signed_in() {
    let mut world = World::new(Kind::Person).await;
    world.accounts = accounts_via(Kind::Person, "one", "mail", "[\"graph\"]");
    world.command.delete_token(&world.key(), None).await.unwrap();
    world.start().await;
    world.seconds(300).await;
    assert!(matches!(token(&world).await, Err(NoToken::SignInNeeded(_))));
    assert!(world.sign_in_is_needed().await && world.script.count() == 0);
    assert_eq!(world.command.fault(&world.key(), Resource::Graph).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_login_waits_for_no_request_of_graphs() {
    let world = world(Kind::Person, "[\"graph\"]").await;
    world.seconds(1).await;
    world.script.open(false);
    let (tokens, account) = (world.tokens(), Arc::clone(&world.accounts[1]));
    let rejected = token(&world).await.unwrap();
    let waiting =
        tokio::spawn(async move { tokens.get_other_for_graph(&account, &rejected).await.unwrap() });
    world.seconds(2).await;
    assert!(world.login().is_ok() && !waiting.is_finished());
    world.script.open(true);
    assert!(waiting.await.unwrap().is_ok());
}

#[test]
fn a_sign_in_asks_for_consent_to_both_and_to_shared_mailboxes() {
    let own = accounts_via(Kind::Person, "one", "mail", "[\"smtp\"]");
    assert_eq!(Principal::among(&own, &own[0]).consents(), ["mail"]);
    let shared = accounts_via(Kind::Person, "one", "mail", "[\"smtp\", \"graph\"]");
    let asked = Principal::among(&shared, &shared[0]).consents();
    let graph = "https://graph.example/Mail.Send";
    assert_eq!(asked, ["mail", graph, "offline_access", &format!("{graph}.Shared")]);
}
