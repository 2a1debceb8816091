//! The measures, and their table.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::CHILD;
use super::process::Process;
use super::site::{Shape, Site, TRIED, mailbox};

/// Nothing that is waited for takes longer, unless it never comes.
const LIMIT: Duration = Duration::from_secs(120);

/// In /proc, a hundredth of a second (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICK: Duration = Duration::from_millis(10);

#[derive(clap::Parser)]
pub struct Args {
    /// What the accounts are; all shapes if it is left out
    #[arg(long, value_enum)]
    shape: Option<Shape>,
    /// How many there are, besides one for comparison
    #[arg(long, default_value_t = 100_000)]
    accounts: usize,
    /// How long it is watched at rest, in seconds
    #[arg(long, default_value_t = 60)]
    rest: u64,
    /// How long the access tokens of people live, in seconds; 0: they have ended, and all are renewed at the start
    #[arg(long, default_value_t = 86_400)]
    life: u64,
    /// Another build of gatepost
    #[arg(long)]
    program: Option<PathBuf>,
}

pub async fn run(args: Args) {
    use clap::ValueEnum;

    let shapes = args.shape.map_or(Shape::value_variants().to_vec(), |shape| vec![shape]);
    for shape in shapes {
        for accounts in [1, args.accounts] {
            println!("{shape:?}, {accounts} accounts");
            Measure::start(&args, shape, accounts).await.all(&args).await;
        }
    }
}

/// gatepost, which runs.
struct Measure {
    site: Site,
    program: Option<PathBuf>,
    process: Process,
}

fn tell(what: &str, value: impl std::fmt::Display) {
    println!("  {what:<44} {value}");
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn gatepost(program: Option<&Path>) -> Command {
    let own = || std::env::current_exe().unwrap();
    let mut command = Command::new(program.map_or_else(own, Path::to_owned));
    command.env(CHILD, "1");
    command
}

impl Measure {
    async fn start(args: &Args, shape: Shape, accounts: usize) -> Self {
        let site = Site::new(shape, accounts, Duration::from_secs(args.life)).await;
        let octets = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
        let state = site.file.with_file_name("state");
        tell("configuration", format!("{:.1} MB", octets(site.file.clone()) as f64 / 1e6));
        tell("store", format!("{:.1} MB", octets(state.join("gatepost.db")) as f64 / 1e6));
        let begun = Instant::now();
        let process = Process::start(gatepost(args.program.as_deref()), &site.file);
        let took = begun.elapsed();
        let spent = processor(process.id());
        tell(
            "start until all listeners accept",
            format!("{} ({} of processor)", millis(took), millis(spent)),
        );
        Self { site, program: args.program.clone(), process }
    }

    async fn all(mut self, args: &Args) {
        let door = self.process.doors[0];
        tell("first login", millis(self.log_in(door, self.site.passwords.len() - 1).await));
        self.settle().await;
        tell("after the start: processor in all", millis(processor(self.process.id())));
        tell("token requests since", self.site.emulator.control().token_requests());
        self.logins(door, "login, median").await;
        self.rest(args.rest).await;
        let (now, most) = self.process.memory();
        tell("memory (resident), most", format!("{} MiB, {} MiB", now / 1024, most / 1024));
        self.commands();
        self.reload().await;
        self.logins(door, "login, median, at the end").await;
        assert!(self.process.runs(), "{}", self.process.log(&[""], 20));
    }

    /// Until it has nothing more to do.
    async fn settle(&self) {
        let begun = Instant::now();
        let mut last = processor(self.process.id());
        loop {
            sleep(Duration::from_secs(3)).await;
            let now = processor(self.process.id());
            if now - last < Duration::from_millis(100) || begun.elapsed() > LIMIT {
                return;
            }
            last = now;
        }
    }

    async fn logins(&self, door: SocketAddr, what: &str) {
        let mut times = Vec::new();
        for number in 0..TRIED {
            times.push(self.log_in(door, number % self.site.passwords.len()).await);
        }
        times.sort();
        tell(what, format!("{}, 90 % {}", millis(times[TRIED / 2]), millis(times[TRIED * 9 / 10])));
    }

    /// By IMAP, from the password to the answer.
    async fn log_in(&self, door: SocketAddr, number: usize) -> Duration {
        let mut stream = BufReader::new(TcpStream::connect(door).await.unwrap());
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let login = format!("1 LOGIN {} {}\r\n", mailbox(number), self.site.passwords[number]);
        let begun = Instant::now();
        stream.write_all(login.as_bytes()).await.unwrap();
        while !line.starts_with("1 ") {
            line.clear();
            assert!(stream.read_line(&mut line).await.unwrap() > 0, "no answer to a login");
        }
        let took = begun.elapsed();
        assert!(line.starts_with("1 OK"), "{line}");
        stream.write_all(b"2 LOGOUT\r\n").await.unwrap();
        while stream.read_line(&mut line).await.unwrap_or(0) > 0 {}
        took
    }

    async fn rest(&self, seconds: u64) {
        let (begun, before) = (Instant::now(), processor(self.process.id()));
        sleep(Duration::from_secs(seconds)).await;
        let spent = (processor(self.process.id()) - before).as_secs_f64();
        let part = 100.0 * spent / begun.elapsed().as_secs_f64();
        tell("at rest: part of a core", format!("{part:.2} %"));
    }

    fn commands(&self) {
        let last = mailbox(self.site.passwords.len() - 1);
        for arguments in [
            &["check"][..],
            &["status"],
            &["status", "--json"],
            &["password", "list"],
            &["password", "list", &last],
            &["password", "add", &last],
        ] {
            let begun = Instant::now();
            let mut command = gatepost(self.program.as_deref());
            command.arg("--config").arg(&self.site.file).args(arguments);
            let before = processor(self.process.id());
            let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            assert!(done.success(), "{arguments:?}");
            let took = millis(begun.elapsed());
            // The running one takes it over within a second.
            std::thread::sleep(Duration::from_secs(1));
            let spent = millis(processor(self.process.id()) - before);
            let words = arguments[..arguments.len().min(2)].join(" ");
            tell(&format!("gatepost {words}"), format!("{took}; in the running one {spent}"));
        }
    }

    /// With one more account.
    async fn reload(&self) {
        let mut file = fs::OpenOptions::new().append(true).open(&self.site.file).unwrap();
        writeln!(file, "[[account]]\nmailbox = \"new@contoso.example\"\napp = \"lab\"").unwrap();
        let (begun, before) = (Instant::now(), processor(self.process.id()));
        self.process.signal("HUP");
        while self.process.log(&["configuration reloaded"], 1).is_empty() {
            assert!(begun.elapsed() < LIMIT, "{}", self.process.log(&["ERROR"], 5));
            sleep(Duration::from_millis(5)).await;
        }
        let spent = millis(processor(self.process.id()) - before);
        tell("reload", format!("{} ({spent} of processor)", millis(begun.elapsed())));
    }
}

/// What a process has used of the processor, in all (proc(5): `utime` and `stime`).
fn processor(id: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u32>().unwrap();
    TICK * (ticks(11) + ticks(12))
}
