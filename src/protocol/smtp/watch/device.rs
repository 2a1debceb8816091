//! The commands of a device that has not logged in: each is judged by the device's rules before it passes.
//!
//! Invariant: what is not known here goes nowhere.

use super::super::super::input::split_word;
use super::super::parameters;
use super::{ClientStep, Watch, rules};

impl Watch {
    /// A command of a device, which passes if its rules allow it.
    pub(super) fn device_command(&mut self, line: &[u8]) -> ClientStep {
        let Some(rules) = &self.rules else { return ClientStep::Wait };
        let (count, text) = (line.len(), line.trim_ascii());
        // A line that does not end with CRLF is judged like one with a control character in it.
        let inner = line.strip_suffix(b"\r\n").unwrap_or(b"\n");
        if inner.iter().any(u8::is_ascii_control) {
            return self.answer(rules::BAD_LINE, count);
        }
        let (name, arguments) = split_word(text);
        let judged = match name.to_ascii_uppercase().as_slice() {
            // Its size, before its turn is asked for.
            b"MAIL" => rules.judge_mail(arguments),
            b"RCPT" => rules.judge_rcpt(arguments),
            b"BDAT" => return self.device_chunk(line, arguments),
            b"DATA" | b"RSET" | b"EHLO" | b"HELO" | b"NOOP" | b"QUIT" | b"VRFY" | b"EXPN"
            | b"HELP" => Ok(()),
            b"AUTH" => Err(rules::AUTH),
            b"STARTTLS" => Err(rules::TLS),
            _ => Err(rules::UNKNOWN),
        };
        match judged {
            Ok(()) => self.command(line),
            Err(answer) => self.answer(answer, count),
        }
    }

    /// The chunks of a message that is too large end the session before the last one: what the upstream
    /// has of it must not be taken for the whole.
    fn device_chunk(&mut self, line: &[u8], arguments: &[u8]) -> ClientStep {
        let Some((octets, _)) = parameters::of_bdat(arguments.trim_ascii()) else {
            self.over(&format!("{}\r\n", rules::BAD_CHUNK));
            return ClientStep::Drop(line.len());
        };
        self.octets = self.octets.saturating_add(octets);
        if self.rules.as_ref().is_some_and(|rules| rules.is_larger(self.octets)) {
            self.over(&format!("{}\r\n", rules::TOO_LARGE));
            return ClientStep::Drop(line.len());
        }
        self.command(line)
    }
}
