//! Many accounts: what each costs does not grow with how many there are, the store is read for many at once, and what is
//! due all at once is asked for a few at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::support_tokens::paused::{Kind, Reply, World};
use gatepost::config::{Account, Config};
use gatepost::oauth::{Answer, Principal, token_of};
use gatepost::secret::Secret;
use tokio::time::advance;

/// Signed in each by itself.
const PEOPLE: usize = 1_000;

/// Round trips to the store in which all of them are read: at each of some hundred at once, besides those that lead to
/// a renewal.
const ROUNDS: usize = 40;

/// Requests at a time.
const AT_ONCE: usize = 32;

fn mailbox(number: usize) -> String {
    format!("user{number}@contoso.example")
}

fn config(count: usize) -> Config {
    let mut text = String::from(
        "state_dir = \"state\"\n\
         [app.lab]\nprovider = \"lab\"\nclient_id = \"one\"\nscopes = [\"mail\"]\ngrant = \"device_code\"\n\
         [provider.lab]\ntoken_url = \"http://127.0.0.1:1/token\"\n",
    );
    for number in 0..count {
        text += &format!(
            "[[account]]\nmailbox = \"{}\"\napp = \"lab\"\naliases = [\"contoso\\\\user{number}\"]\n",
            mailbox(number)
        );
    }
    Config::parse(Path::new("gatepost.toml"), &text).unwrap()
}

/// Not started yet; the people's access tokens live so long.
async fn signed_in(life: Duration) -> World {
    let mut world = World::new(Kind::Robot).await;
    world.accounts = config(PEOPLE).accounts;
    // The disk's time is not what is tested.
    for number in 0..PEOPLE {
        sign_in(&world, &world.accounts[number], "stored", life).await;
    }
    world
}

async fn sign_in(world: &World, account: &Arc<Account>, what: &str, life: Duration) {
    let answer = Answer {
        access_token: Secret::new(format!("{what}-{}", account.mailbox)),
        refresh_token: Some(Secret::new(format!("refresh-{}", account.mailbox))),
        expires_in: life,
        refresh_in: None,
    };
    let principal = Principal::of(account);
    let token = token_of(&principal, answer, None, world.clock.now());
    world.command.replace_token(&principal.key(), &token).await.unwrap();
}

/// Lets the proxy go to the store so often.
async fn rounds(world: &World, count: usize) {
    for _ in 0..count {
        world.store.version().await.unwrap();
        tokio::task::yield_now().await;
    }
}

fn token_of_login(world: &World, account: usize) -> Option<String> {
    Some(world.login_to(account).ok()?.token.expose().clone())
}

#[tokio::test(start_paused = true)]
async fn the_store_is_read_for_many_at_once_and_later_for_those_that_are_new() {
    let mut world = signed_in(Duration::from_secs(86_400)).await;
    world.begin();
    rounds(&world, ROUNDS).await;
    for account in 0..PEOPLE {
        let wanted = format!("stored-{}", mailbox(account));
        assert_eq!(token_of_login(&world, account), Some(wanted));
    }
    assert_eq!(world.script.count(), 0, "a valid token is used again");
    // Somebody signs in anew, and somebody whose token has ended.
    sign_in(&world, &world.accounts[700], "anew", Duration::from_secs(86_400)).await;
    sign_in(&world, &world.accounts[800], "ended", Duration::ZERO).await;
    world.tokens().store_changed();
    rounds(&world, ROUNDS).await;
    assert_eq!(token_of_login(&world, 700), Some(format!("anew-{}", mailbox(700))));
    assert_eq!(token_of_login(&world, 800).as_deref(), Some("access-1"));
    assert_eq!(token_of_login(&world, 799), Some(format!("stored-{}", mailbox(799))));
    // A reload without a change is none for anybody.
    world.reload().await;
    rounds(&world, ROUNDS).await;
    assert_eq!(world.script.count(), 1);
}

/// A login whose turn has not come to be read is read by itself.
#[tokio::test(start_paused = true)]
async fn a_login_just_after_the_start_does_not_wait_for_the_others() {
    let mut world = signed_in(Duration::from_secs(86_400)).await;
    world.begin();
    rounds(&world, 2).await;
    let (tokens, account) = (world.tokens(), Arc::clone(&world.accounts[PEOPLE - 1]));
    let login = tokio::spawn(async move { tokens.get(&account).await });
    rounds(&world, 6).await;
    assert!(login.is_finished(), "it waits for more than a few round trips");
    let wanted = format!("stored-{}", mailbox(PEOPLE - 1));
    assert_eq!(login.await.unwrap().unwrap().token.expose(), &wanted);
}

#[tokio::test(start_paused = true)]
async fn after_hours_a_few_are_renewed_at_a_time_and_who_waits_is_first() {
    let mut world = signed_in(Duration::ZERO).await;
    world.script.usual(Reply::life(86_400));
    world.script.open(false);
    world.begin();
    rounds(&world, 10 * ROUNDS).await;
    assert_eq!(world.script.count(), AT_ONCE, "as many as may be");
    let (tokens, account) = (world.tokens(), Arc::clone(&world.accounts[PEOPLE - 1]));
    let login = tokio::spawn(async move { tokens.get(&account).await });
    rounds(&world, ROUNDS).await;
    assert_eq!(world.script.count(), AT_ONCE + 1, "whoever has a login waiting waits for no place");
    world.script.open(true);
    login.await.unwrap().unwrap();
    // Six round trips and more each, with the locks of files.
    for _ in 0..200 {
        rounds(&world, 100).await;
        advance(Duration::from_millis(1)).await;
        if world.script.count() == PEOPLE {
            break;
        }
    }
    assert_eq!(world.script.count(), PEOPLE, "each is asked for once");
    assert!(world.script.most_under_way() <= AT_ONCE + 1);
}

/// What this thread has used of the processor so far, however busy the machine is.
#[cfg(target_os = "linux")]
fn processor() -> Duration {
    // In nanoseconds (Documentation/scheduler/sched-stats.rst).
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// Four times as many accounts are four times the work, and no more for each login.
#[cfg(target_os = "linux")]
#[test]
fn a_configuration_is_read_and_searched_in_proportion() {
    fn measured<T>(work: impl FnOnce() -> T) -> (T, f64) {
        let begun = processor();
        let done = work();
        (done, (processor() - begun).as_secs_f64())
    }
    let search = |config: &Config| {
        for number in 0..2_000 {
            let account = config.account(&mailbox(number)).unwrap();
            assert!(config.lists(&account));
            assert!(config.account(&format!("contoso\\USER{number}")).is_some());
            assert!(config.account(&format!("nobody{number}@contoso.example")).is_none());
        }
    };
    let (few, reading_few) = measured(|| config(4_000));
    let (many, reading_many) = measured(|| config(16_000));
    let ((), searching_few) = measured(|| search(&few));
    let ((), searching_many) = measured(|| search(&many));
    let reading = reading_many / reading_few;
    assert!(reading < 8.0, "reading four times as much takes {reading:.1} times as long");
    let searching = searching_many / searching_few;
    assert!(searching < 3.0, "a login with four times as many accounts takes {searching:.1} times");
}
