//! An envelope as MAIL and RCPT say it to a server that has these extensions.
//!
//! Invariant: nothing of an envelope can end a command, and a parameter goes only to a server that knows it.

use std::fmt::Write;

use super::envelope::{Envelope, Recipient};
use super::parameters::has_smtputf8;

/// EHLO keywords, and what can be said to a server that has them.
pub(super) struct Offers<'a>(pub(super) &'a [String]);

impl Offers<'_> {
    pub(super) fn has(&self, extension: &str) -> bool {
        let name = |keyword: &String| keyword.split(' ').next().map(str::to_ascii_uppercase);
        self.0.iter().any(|keyword| name(keyword).as_deref() == Some(extension))
    }

    /// The command, or why there is none.
    pub(super) fn mail(&self, envelope: &Envelope, size: u64) -> Result<String, &'static str> {
        let addresses = || {
            let recipients = envelope.recipients.iter().map(|to| &to.address);
            std::iter::once(&envelope.sender).chain(recipients)
        };
        if addresses().any(|address| ends_path(address)) {
            return Err("5.1.3 an address with a control character or an angle bracket");
        }
        let declared = has_smtputf8(&envelope.parameters);
        let international = addresses().any(|address| !address.is_ascii());
        if (declared || international) && !self.has("SMTPUTF8") {
            return Err("5.6.7 the message needs SMTPUTF8 (RFC 6531), which the mail server lacks");
        }
        let mut line = format!("MAIL FROM:<{}>", envelope.sender);
        if self.has("SIZE") {
            // Writing to a string can't fail.
            let _ = write!(line, " SIZE={size}");
        }
        self.append(&mut line, &envelope.parameters);
        if international && !declared {
            line.push_str(" SMTPUTF8");
        }
        Ok(line)
    }

    pub(super) fn rcpt(&self, recipient: &Recipient) -> String {
        let mut line = format!("RCPT TO:<{}>", recipient.address);
        self.append(&mut line, &recipient.parameters);
        line
    }

    /// The parameters that the server understands; without the others a message is as good.
    fn append(&self, line: &mut String, parameters: &[String]) {
        for parameter in parameters {
            let name = parameter.split('=').next().unwrap_or_default().to_ascii_uppercase();
            let extension = match name.as_str() {
                // Its own, and one that says whom to believe (RFC 4954 section 5): nobody.
                "SIZE" | "AUTH" => continue,
                "BODY" => "8BITMIME",
                "RET" | "ENVID" | "NOTIFY" | "ORCPT" => "DSN",
                name => name,
            };
            if self.has(extension) && parameter.bytes().all(|byte| byte.is_ascii_graphic()) {
                line.push(' ');
                line.push_str(parameter);
            }
        }
    }
}

/// Whether it would end `<…>`, or the line. The receiver lets none such in.
fn ends_path(address: &str) -> bool {
    address.chars().any(|c| c.is_control() || matches!(c, '<' | '>'))
}
