//! An app that the token endpoint refuses, under paused time: what is mended is noticed, and nothing is asked for nothing.

use std::time::Duration;

use crate::support_tokens::paused::{KINDS, Kind, Reply, World, accounts_with};
use gatepost::oauth::TokenError;
use gatepost::protocol::Refusal;
use gatepost::vocabulary::Cause;

const SECOND: Duration = Duration::from_secs(1);

fn refused(cause: Cause) -> Reply {
    Reply::Fail(TokenError::permanent("invalid_client: AADSTS7000215: Invalid secret.", cause))
}

/// Its app has its secret in a file, and the token endpoint refuses it.
async fn world(kind: Kind, cause: Cause) -> World {
    let mut world = World::new(kind).await;
    let file = world.folder.path().join("secret");
    std::fs::write(&file, "expired").unwrap();
    let secret = format!("{{ file = {file:?} }}");
    world.accounts = accounts_with(kind, "one", "mail", "[\"smtp\"]", &secret);
    world.script.usual(refused(cause));
    world.start().await;
    assert_eq!(world.script.count(), 1);
    world
}

fn replace(world: &World, secret: &str) {
    // As an editor does it.
    let (file, new) = (world.folder.path().join("secret"), world.folder.path().join("new"));
    std::fs::write(&new, secret).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn refusal(world: &World) -> Refusal {
    world.patient_login().await.unwrap_err().expect("an answer at once")
}

#[tokio::test(start_paused = true)]
async fn a_login_after_the_replacement_works() {
    for kind in KINDS {
        let world = world(kind, Cause::Registration).await;
        let Refusal::AppRefused { remedy } = refusal(&world).await else { panic!("{kind:?}") };
        let place = world.folder.path().join("secret");
        let place = format!("into {}; gatepost notices by itself.", place.display());
        assert!(remedy.ends_with(&place), "{remedy}");
        // Clients that come all the time make no requests, whatever they do to the file's times.
        world
            .pass(50 * SECOND, SECOND, || {
                replace(&world, "expired");
                drop(world.login());
            })
            .await;
        assert_eq!(world.script.count(), 1, "{kind:?}");
        world.script.usual(Reply::life(3600));
        replace(&world, "new");
        world.seconds(3).await;
        assert_eq!(world.patient_login().await.as_deref(), Ok("access-2"));
        assert!(!world.sign_in_is_needed().await);
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_noticed_without_a_login() {
    for kind in KINDS {
        let world = world(kind, Cause::Registration).await;
        world.seconds(600).await;
        assert_eq!(world.script.count(), 1, "{kind:?}: nobody needs it");
        world.script.usual(Reply::life(3600));
        replace(&world, "new");
        world.seconds(35).await;
        assert_eq!(world.login().unwrap().token.expose(), "access-2");
    }
}

/// Each content is tried once, and a file that is missing for a while is no reason for anything.
#[tokio::test(start_paused = true)]
async fn another_wrong_secret_is_one_request() {
    let world = world(Kind::Robot, Cause::Registration).await;
    std::fs::remove_file(world.folder.path().join("secret")).unwrap();
    world.pass(20 * SECOND, SECOND, || drop(world.login())).await;
    assert_eq!(world.script.count(), 1);
    replace(&world, "wrong as well");
    world.pass(40 * SECOND, SECOND, || drop(world.login())).await;
    assert_eq!(world.script.count(), 2);
    assert!(matches!(refusal(&world).await, Refusal::AppRefused { .. }));
    // As often as it is written: never more than each few seconds.
    let mut number = 0;
    world
        .pass(60 * SECOND, SECOND / 4, || {
            number += 1;
            replace(&world, &format!("wrong {number}"));
            drop(world.login());
        })
        .await;
    assert!((10..=22).contains(&(world.script.count() - 2)), "{}", world.script.count());
}

/// What was mended at the provider leaves no trace here: a login has it tried each minute, else it is tried each hour.
#[tokio::test(start_paused = true)]
async fn what_was_mended_at_the_provider_is_found_out() {
    for kind in KINDS {
        let world = world(kind, Cause::Registration).await;
        world.pass(300 * SECOND, SECOND, || drop(world.login())).await;
        assert!((4..=6).contains(&world.script.count()), "{}", world.script.count());
        let before = world.script.count();
        world.pass(Duration::from_secs(3 * 3600 + 120), 20 * SECOND, || {}).await;
        assert_eq!(world.script.count() - before, 3, "{kind:?}");
        world.script.usual(Reply::life(3600));
        world.seconds(61).await;
        assert!(world.patient_login().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_tries_it_again_at_once() {
    let world = world(Kind::Person, Cause::Registration).await;
    world.reload().await;
    assert_eq!(world.script.count(), 2);
    assert!(matches!(refusal(&world).await, Refusal::AppRefused { .. }));
    world.script.usual(Reply::life(3600));
    world.reload().await;
    assert_eq!(world.patient_login().await.as_deref(), Ok("access-3"));
    // Where nothing is wrong, nothing is asked for.
    world.reload().await;
    world.seconds(30).await;
    assert_eq!(world.script.count(), 3);
}

/// A sign-in that has ended is a person's: no secret mends it, and no reload.
#[tokio::test(start_paused = true)]
async fn a_sign_in_that_has_ended_is_not_tried_again() {
    let world = world(Kind::Person, Cause::SignIn).await;
    replace(&world, "new");
    world.pass(120 * SECOND, SECOND, || drop(world.login())).await;
    world.reload().await;
    world.seconds(7200).await;
    assert!(matches!(refusal(&world).await, Refusal::SignInNeeded { .. }));
    assert_eq!(world.script.count(), 1);
}

/// A token that lives goes on being used while its renewal is refused.
#[tokio::test(start_paused = true)]
async fn a_token_that_lives_is_used_meanwhile() {
    let mut world = World::new(Kind::Person).await;
    let file = world.folder.path().join("secret");
    std::fs::write(&file, "good").unwrap();
    let secret = format!("{{ file = {file:?} }}");
    world.accounts = accounts_with(Kind::Person, "one", "mail", "[\"smtp\"]", &secret);
    world.start().await;
    world.script.usual(refused(Cause::Registration));
    world.pass(Duration::from_secs(3000), 10 * SECOND, || assert!(world.patient())).await;
    assert_eq!(world.script.count(), 2);
    assert!(world.sign_in_is_needed().await, "a person is told in time");
    world.script.usual(Reply::life(3600));
    replace(&world, "new");
    world.pass(35 * SECOND, 5 * SECOND, || assert!(world.patient())).await;
    assert_eq!(world.login().unwrap().token.expose(), "access-3");
    assert_eq!(world.script.asked()[2].refresh_token.as_deref(), Some("refresh-1"));
}
