//! The look-up of a token that is there, by one task and by several at once: what every login does.

#![allow(clippy::unwrap_used, reason = "a benchmark ends by panicking")]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures_util::future::BoxFuture;
use gatepost::attention::Attention;
use gatepost::clock::Clock;
use gatepost::config::{App, Config};
use gatepost::oauth::{Answer, Request, TokenEndpoint, TokenError, Tokens, read_answer};
use gatepost::store::Store;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks that ask at the same time.
const TASKS: [u64; 3] = [1, 4, 16];

/// An app by itself, and its mailboxes.
const CONFIGURATION: &str = r#"
state_dir = "state"
[provider.lab]
token_url = "http://127.0.0.1:1/token"
imap = "localhost:993"
app_scopes = ["https://outlook.office365.com/.default"]
[app.lab]
provider = "lab"
client_id = "id"
client_secret = { file = "secret" }
grant = "client_credentials"
"#;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gatepost.toml");
    let account =
        |number| format!("[[account]]\nmailbox = \"m{number}@contoso.example\"\napp = \"lab\"\n");
    fs::write(folder.path().join("secret"), "secret").unwrap();
    fs::write(&file, CONFIGURATION.to_owned() + &(0..100).map(account).collect::<String>())
        .unwrap();
    let config = Arc::new(Config::load(&file).unwrap());
    let tokens = Arc::new(runtime.block_on(start(&config)));
    let mut group = criterion.benchmark_group("tokens");
    group.throughput(Throughput::Elements(1));
    for tasks in TASKS {
        group.bench_function(format!("get by {tasks} at once"), |bencher| {
            bencher.iter_custom(|times| timed(&runtime, &config, &tokens, times, tasks));
        });
    }
    group.finish();
    criterion.final_summary();
}

/// With the first token fetched.
async fn start(config: &Config) -> Tokens {
    let store = Store::open(&config.state_dir, None).await.unwrap();
    let attention = Attention::new(Vec::new(), Vec::new());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let endpoint = |_: &_| Arc::new(Generous) as Arc<dyn TokenEndpoint>;
    let clock = Clock::system();
    let tokens =
        Tokens::start(&config.accounts, endpoint, &store, &clock, &attention, &tracker, &stop);
    tokens.get(config.accounts.first().unwrap()).await.unwrap();
    tokens
}

/// How long it takes to get a token so often, by so many tasks together.
fn timed(
    runtime: &Runtime,
    config: &Arc<Config>,
    tokens: &Arc<Tokens>,
    times: u64,
    tasks: u64,
) -> Duration {
    runtime.block_on(async {
        let begun = Instant::now();
        let asking = (0..tasks).map(|_| {
            let (config, tokens) = (Arc::clone(config), Arc::clone(tokens));
            tokio::spawn(async move {
                for account in config.accounts.iter().cycle().take(share(times, tasks)) {
                    tokens.get(account).await.unwrap();
                }
            })
        });
        for task in asking.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        begun.elapsed()
    })
}

fn share(times: u64, tasks: u64) -> usize {
    usize::try_from(times.div_ceil(tasks)).unwrap()
}

/// A token endpoint that answers at once.
struct Generous;

impl TokenEndpoint for Generous {
    fn request<'a>(
        &'a self,
        _: &'a App,
        _: &'a [String],
        _: Request<'a>,
    ) -> BoxFuture<'a, Result<Answer, TokenError>> {
        Box::pin(async {
            let answer = format!(
                r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"{}"}}"#,
                "t".repeat(1800)
            );
            read_answer(200, None, answer.as_bytes())
        })
    }
}
