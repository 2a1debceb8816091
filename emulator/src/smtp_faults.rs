//! Faults of SMTP on request: what is said at a stage of a session, how late, or that nothing is said.
//!
//! Invariant: faults of a stage are shown in the order in which they were asked for, each as often as it
//! was asked for; delays add to whatever else is shown.

use std::time::Duration;

use super::{Control, World, locked};

/// Where in an SMTP session a fault shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmtpStage {
    /// At the end of a login that would succeed or fail by itself.
    Auth,
    /// At MAIL.
    Mail,
    /// At RCPT of this address; of any address for `None`.
    Rcpt(Option<String>),
    /// At the end of a message, of DATA or the last BDAT.
    EndOfData,
}

/// What happens there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmtpFault {
    /// This line is the answer, and nothing was taken. A 421 closes the connection too.
    Reply(String),
    /// The answer is late. A message was taken when the time begins.
    Delay(Duration),
    /// The connection closes without an answer; at the end of data the message was taken all the same.
    Closed,
    /// The connection closes without an answer, and nothing was taken.
    Lost,
}

/// A fault that waits to be shown.
pub(super) struct SmtpRule {
    stage: SmtpStage,
    fault: SmtpFault,
    /// How often; `None` is until it is taken back.
    left: Option<usize>,
}

/// What to show at a stage.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) delay: Duration,
    /// What else than a delay.
    pub(super) fault: Option<SmtpFault>,
}

impl Control {
    /// Shows this fault the next `count` times, or, for `None`, until [`Self::clear_smtp_faults`].
    pub fn fail_smtp(&self, stage: SmtpStage, fault: SmtpFault, count: Option<usize>) {
        locked(&self.world.faults).smtp.push(SmtpRule { stage, fault, left: count });
    }

    /// Takes back what [`Self::fail_smtp`] asked for.
    pub fn clear_smtp_faults(&self) {
        locked(&self.world.faults).smtp.clear();
    }
}

impl World {
    /// The faults to show now, which are used up by that.
    pub(super) fn take_smtp_faults(&self, at: &SmtpStage) -> Shown {
        let (mut shown, mut faults) = (Shown::default(), locked(&self.faults));
        for rule in faults.smtp.iter_mut().filter(|rule| rule.stage.covers(at)) {
            match &rule.fault {
                _ if rule.left == Some(0) => continue,
                SmtpFault::Delay(delay) => shown.delay += *delay,
                fault if shown.fault.is_none() => shown.fault = Some(fault.clone()),
                _ => continue,
            }
            rule.left = rule.left.map(|left| left - 1);
        }
        faults.smtp.retain(|rule| rule.left != Some(0));
        shown
    }
}

impl SmtpStage {
    /// Whether a fault asked for here shows there.
    fn covers(&self, at: &Self) -> bool {
        match (self, at) {
            (Self::Rcpt(None), Self::Rcpt(_)) => true,
            (Self::Rcpt(Some(own)), Self::Rcpt(Some(address))) => own.eq_ignore_ascii_case(address),
            _ => self == at,
        }
    }
}
