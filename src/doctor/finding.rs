//! What the doctor found: a stable code, what it is about, what was seen, why it matters, and what to do.
//!
//! Invariant: a finding has no secret in it, and an error always has a remedy.

use std::fmt;

use serde::{Serialize, Serializer};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// It works, but not for ever, or not for all.
    Warning,
    /// It does not work.
    Error,
}

/// One check's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable, for scripts and for the heading in `docs/troubleshooting.md`.
    pub code: Code,
    /// How bad it is.
    pub level: Level,
    /// What it is about: a file, a server, a mailbox.
    pub subject: String,
    /// What was found, and why it matters.
    pub what: String,
    /// What to do: a command, or the place in the portal. Empty if all is well. What is to be typed stands between
    /// backticks, which scripts don't get.
    #[serde(serialize_with = "plain")]
    pub remedy: String,
}

impl Finding {
    /// All is well.
    pub fn ok(code: Code, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(code, Level::Ok, subject, what, "")
    }

    /// It works, for now.
    pub fn warning(
        code: Code,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(code, Level::Warning, subject, what, remedy)
    }

    /// It does not work.
    pub fn error(
        code: Code,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(code, Level::Error, subject, what, remedy)
    }

    fn new(
        code: Code,
        level: Level,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, what, remedy) = (subject.into(), what.into(), remedy.into());
        Self { code, level, subject, what, remedy }
    }
}

fn plain<S: Serializer>(remedy: &str, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&remedy.replace('`', ""))
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// What a finding is, by one stable name.
        ///
        /// In the order in which one explains the other: without a configuration nothing can be said of the
        /// network, without the network nothing of a token, without a token nothing of a login. What explains
        /// nothing but itself comes last.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// All of them, in that order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// `gatepost.toml` can't be read or has a mistake.
    Config = "config",
    /// The store can't be opened or used.
    Store = "store",
    /// The store, its key or a secret can be read by others.
    Permissions = "permissions",
    /// A port that a listener needs is another program's.
    PortTaken = "port-taken",
    /// A listener can't be opened for another reason, or does not answer.
    Listener = "listener",
    /// The certificate that a listener shows can't be used, ends, or lacks names.
    ListenerCertificate = "listener-certificate",
    /// The secret, certificate or key of an app can't be read or used.
    Credential = "credential",
    /// A secret or certificate has ended, or ends soon.
    CredentialExpiry = "credential-expiry",
    /// The environment sends HTTP through a proxy.
    SystemProxy = "system-proxy",
    /// A host name is not known.
    Dns = "dns",
    /// No TCP connection.
    Tcp = "tcp",
    /// One address family does not work, the other does.
    AddressFamily = "address-family",
    /// The clock is wrong.
    Clock = "clock",
    /// Something on the way opens TLS and shows a certificate of its own.
    TlsIntercepted = "tls-intercepted",
    /// A certificate has ended or is not valid yet.
    TlsExpired = "tls-expired",
    /// A certificate is for another name.
    TlsName = "tls-name",
    /// A certificate is of an unknown issuer, or TLS fails otherwise.
    Tls = "tls",
    /// The token endpoint can't be asked, or is out of order.
    TokenEndpoint = "token-endpoint",
    /// The tenant is not known.
    Tenant = "tenant",
    /// The app registration is not known, or not allowed to do this.
    AppRegistration = "app-registration",
    /// The client secret, certificate or assertion is refused.
    ClientAuthentication = "client-authentication",
    /// The scopes are refused.
    Scope = "scope",
    /// Nobody has consented.
    Consent = "consent",
    /// A sign-in that can't be renewed.
    NoRefreshToken = "no-refresh-token",
    /// Nobody has signed in, or not any more.
    SignIn = "sign-in",
    /// A policy of the tenant stands against it.
    Policy = "policy",
    /// The token is for something else than mail.
    TokenAudience = "token-audience",
    /// The token lacks a permission for a protocol.
    TokenPermission = "token-permission",
    /// The token is of another tenant, app or person, or has ended.
    TokenIdentity = "token-identity",
    /// The token is as it should be.
    Token = "token",
    /// SMTP AUTH is switched off in the tenant.
    SmtpAuthTenant = "smtp-auth-tenant",
    /// SMTP AUTH is switched off for the mailbox.
    SmtpAuthMailbox = "smtp-auth-mailbox",
    /// The token is good, but this mailbox is not its own.
    MailboxPermission = "mailbox-permission",
    /// The mailbox has this protocol switched off.
    ProtocolOff = "protocol-off",
    /// The mailbox may not be sent from.
    SendAs = "send-as",
    /// The server takes no more for now.
    Throttled = "throttled",
    /// The mail server refuses for a reason that is not known.
    Login = "login",
    /// The mail server does not do its part.
    MailServer = "mail-server",
    /// The token for Microsoft Graph lacks a permission.
    GraphPermission = "graph-permission",
    /// Microsoft Graph does not let the mailbox send.
    Graph = "graph",
    /// The folder of spooled mail can't be used.
    Spool = "spool",
    /// Spooled mail could not be delivered.
    MailFailed = "mail-failed",
    /// Spooled mail waits for long.
    MailWaiting = "mail-waiting",
    /// A mailbox has no app password.
    NoPassword = "no-password",
    /// `gatepost run` is not running.
    NotRunning = "not-running",
    /// A client begins with TLS on a port that does not.
    ClientTls = "client-tls",
    /// A client speaks in plain text on a port of TLS, or mistrusts its certificate.
    ClientPlain = "client-plain",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.text())
    }
}
