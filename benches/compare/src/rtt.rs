//! `rtt`: how many round trips to the upstream a login takes, of gatepost and of a client that logs in directly.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::sleep;

use crate::client::{Door, Proof, Protocol};
use crate::delay::Delay;
use crate::ground::Ground;
use crate::peers::gatepost::{Settings, prepare_with};
use crate::peers::{Programs, Target};
use crate::say::progress;
use crate::statistic::Statistic;
use crate::tls::connector;
use crate::upstream::{Ports, Upstream};

/// Logins of each kind, of which the median counts.
const LOGINS: usize = 7;

/// Between two logins: for what gatepost prepares, and for what it does after its start.
const PAUSE: Duration = Duration::from_millis(1500);

const PROTOCOLS: [Protocol; 2] = [Protocol::Imap, Protocol::Smtp];

/// Who logs in, and its times by IMAP and by SMTP, in milliseconds.
type Line = (&'static str, [Vec<f64>; 2]);

/// Measures, and answers a table in Markdown.
pub(crate) async fn measure(
    ground: &Ground,
    programs: &Programs,
    length: Duration,
) -> Result<String> {
    let upstream = Upstream::start(Ports::new(ground)?)?;
    let Ports { imap, smtp, tokens } = upstream.ports;
    let far = [Delay::start(ground, imap, length)?, Delay::start(ground, smtp, length)?];
    let [imap, smtp] = [&far[0], &far[1]].map(|delay| delay.port);
    progress("direct");
    let direct = direct([imap, smtp]).await?;
    let (mut first, mut second) = ([vec![], vec![]], [vec![], vec![]]);
    let target = Target { imap, smtp, tokens };
    for (at, protocol) in PROTOCOLS.into_iter().enumerate() {
        for number in 1..=LOGINS {
            progress(&format!("gatepost, {}, start {number} of {LOGINS}", protocol.name()));
            let [fresh, again] = gatepost(ground, programs, target, protocol).await?;
            first.get_mut(at).context("IMAP and SMTP")?.push(fresh);
            second.get_mut(at).context("IMAP and SMTP")?.push(again);
        }
    }
    Ok(table(
        &[
            ("direct, XOAUTH2", direct),
            ("gatepost, first login after its start", first),
            ("gatepost, a login after another", second),
        ],
        length,
    ))
}

async fn direct(ports: [u16; 2]) -> Result<[Vec<f64>; 2]> {
    let mut times = [vec![], vec![]];
    for ((protocol, port), times) in PROTOCOLS.into_iter().zip(ports).zip(&mut times) {
        let door = Door::new(port, Some(connector()?), Proof::Token);
        for _ in 0..LOGINS {
            times.push(millis(door.time_login(protocol).await?));
        }
    }
    Ok(times)
}

/// The first login of a process, and one a little later.
async fn gatepost(
    ground: &Ground,
    programs: &Programs,
    target: Target,
    protocol: Protocol,
) -> Result<[f64; 2]> {
    let gatepost = prepare_with(ground, target, &programs.gatepost, &Settings::default())?;
    let door = match protocol {
        Protocol::Imap => &gatepost.peer.door,
        Protocol::Smtp => &gatepost.smtp,
    };
    let running = gatepost.peer.start().await?;
    let mut times = [0.0; 2];
    for time in &mut times {
        sleep(PAUSE).await;
        *time = millis(door.time_login(protocol).await.with_context(|| running.tail())?);
    }
    Ok(times)
}

fn table(lines: &[Line], length: Duration) -> String {
    let mut text = format!(
        "| from connecting to the answer to the login, round trips of {} ms (median; ms) | IMAP | SMTP |\n|-|-|-|\n",
        length.as_millis()
    );
    for (name, protocols) in lines {
        text += &format!("| {name} |");
        for times in protocols {
            let median = Statistic::of(times).map_or(f64::NAN, |statistic| statistic.median);
            text += &format!(" {:.1} ({median:.0} ms) |", median / millis(length));
        }
        text.push('\n');
    }
    text
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
