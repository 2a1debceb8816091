//! What a fault may come to.

use std::ops::Range;
use std::time::Duration;

use gatepost::emulator::network::{Deed, Direction, Fault, Place, Turn};

use super::support_ground::{LOGIN, Stop, is_temporary, is_wrong_password};

/// From connect to a refusal: 25 s for the way upstream, and what a busy machine takes.
pub const REFUSED_WITHIN: Duration = Duration::from_secs(28);

/// Why this end is none that a fault between gatepost and the provider's mail server may have.
pub fn inside(
    fault: &Fault,
    done: &Result<(), Stop>,
    took: Duration,
) -> Result<&'static str, String> {
    match done {
        Ok(()) => Ok("no harm"),
        Err(Stop::Refused(answer)) if is_wrong_password(answer) || !is_temporary(answer) => {
            Err(format!("refused by {answer:?}"))
        }
        Err(Stop::Refused(answer)) if took > REFUSED_WITHIN => {
            Err(format!("refused after {took:?} by {answer:?}"))
        }
        // Far below each deadline.
        Err(Stop::Refused(answer)) if matches!(fault.deed, Deed::Delay(_)) => {
            Err(format!("a delay was refused by {answer:?}"))
        }
        Err(Stop::Refused(_)) => Ok("refused"),
        Err(Stop::Ended(phase, error)) if before_session(phase) => {
            Err(format!("no answer, but an end in {phase}: {error}"))
        }
        Err(Stop::Ended(..)) => Ok("session ended"),
        Err(Stop::Hung(phase)) if before_session(phase) => Err(format!("no answer in {phase}")),
        // A relay does not know whether a silence is meant; the client does not wait for ever.
        Err(Stop::Hung(phase)) => match fault.deed {
            Deed::Cut | Deed::Reset | Deed::HalfClose => Err(format!("no end in {phase}")),
            _ => Ok("given up by the client"),
        },
        Err(Stop::Odd(phase, line)) => match before_session(phase) {
            false if line.starts_with("* BYE") || line.starts_with('4') => Ok("session ended"),
            _ => Err(format!("{phase} was answered by {line:?}")),
        },
    }
}

/// The same between the client and gatepost: whatever becomes of it, nobody is told of a wrong password.
pub fn outside(done: &Result<(), Stop>) -> Result<&'static str, String> {
    match done {
        Ok(()) => Ok("no harm"),
        Err(Stop::Refused(answer) | Stop::Odd(_, answer)) if is_wrong_password(answer) => {
            Err(format!("refused by {answer:?}"))
        }
        Err(Stop::Refused(_) | Stop::Odd(..)) => Ok("refused"),
        Err(Stop::Ended(..)) => Ok("session ended"),
        Err(Stop::Hung(_)) => Ok("given up by the client"),
    }
}

fn before_session(phase: &str) -> bool {
    ["connect", "greeting", LOGIN].contains(&phase)
}

/// A part of a connection: octets of one direction.
#[derive(Clone, Debug)]
pub struct Part {
    pub name: String,
    pub direction: Direction,
    pub from: u64,
    pub to: u64,
}

/// The turns up to a login.
pub fn parts_of(turns: &[Turn]) -> Vec<Part> {
    let all = turns.len();
    let named = turns.iter().enumerate().map(|(number, turn)| Part {
        name: format!("turn {} of {all}", number + 1),
        direction: turn.direction,
        from: turn.from,
        to: turn.to,
    });
    named.collect()
}

/// A place in one of these parts, and what happens there.
pub fn draw(
    chance: &mut fastrand::Rng,
    parts: &[Part],
    hold: Duration,
    slow: Range<u32>,
) -> (String, Fault) {
    // One in ten at connect.
    if chance.u8(..10) == 0 {
        return ("connect".into(), Fault { place: Place::Connect, deed: deed(chance, hold, slow) });
    }
    let part = &parts[chance.usize(..parts.len())];
    let place = Place::Octet(part.direction, chance.u64(part.from..part.to));
    (part.name.clone(), Fault { place, deed: deed(chance, hold, slow) })
}

fn deed(chance: &mut fastrand::Rng, hold: Duration, slow: Range<u32>) -> Deed {
    match chance.u8(..8) {
        0 => Deed::Delay(Duration::from_millis(chance.u64(100..2000))),
        1 => Deed::Throttle(chance.u32(slow)),
        2 => Deed::Cut,
        3 => Deed::Reset,
        4 => Deed::HalfClose,
        5 => Deed::Garbage((0..chance.usize(1..64)).map(|_| chance.u8(..)).collect()),
        6 => Deed::Repeat,
        _ => Deed::Swallow(hold),
    }
}
