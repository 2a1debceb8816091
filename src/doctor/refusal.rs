//! What a refusal is about: the token endpoint's and the mail servers' words, under the doctor's codes.

use super::Code;
use crate::explain::{self, Entry};
use crate::protocol::Rejection;

/// What a person does about it: what is known of the words, else `otherwise`.
pub(super) fn remedy(said: &str, mailbox: &str, otherwise: &str) -> String {
    let known =
        explain::best(said).map(|entry| entry.marked_remedy(mailbox, explain::A_CREDENTIAL));
    known
        .filter(|remedy| !remedy.is_empty())
        .unwrap_or_else(|| otherwise.replace("{mailbox}", mailbox))
}

/// The words, and what they mean.
pub(super) fn in_words(said: &str) -> String {
    match explain::best(said) {
        Some(Entry { meaning, .. }) => format!("{said} ({meaning})"),
        None => said.to_owned(),
    }
}

/// Of an error of the token endpoint's that stays.
pub(super) fn of_token_endpoint(said: &str) -> Code {
    let of = |entry: &'static Entry| {
        let number = entry.code.strip_prefix("AADSTS").and_then(|number| number.parse().ok());
        number.map_or_else(|| of_oauth(&entry.code), of_entra)
    };
    explain::explain(said).into_iter().find_map(of).unwrap_or(Code::AppRegistration)
}

/// Microsoft's reference of AADSTS codes, by what has to be mended. `None`: the OAuth error tells more.
fn of_entra(number: u32) -> Option<Code> {
    Some(match number {
        90002 | 900_021 | 900_023 | 900_971 | 50059 | 90013 | 90038 | 50020 | 90072 => Code::Tenant,
        700_016 | 7_000_218 | 50194 | 700_054 | 500_113 | 50011 | 7_000_112 | 500_014 | 50105
        | 700_038 | 7_000_229 | 9_002_346 | 70_001 => Code::AppRegistration,
        7_000_222 => Code::CredentialExpiry,
        7_000_215 | 7_000_216 | 7_000_214 | 700_027 | 700_024 | 700_023 | 700_021 | 70_021
        | 70_002 | 700_211 | 700_212 | 700_213 | 50012 | 50013 => Code::ClientAuthentication,
        70011 | 1_002_012 | 500_011 | 50001 | 28_000 | 28_002 | 28_003 | 650_053 | 650_057
        | 65005 | 501_461 | 70_003 => Code::Scope,
        65001 | 65004 | 90094 | 90008 | 650_052 => Code::Consent,
        50076
        | 50079
        | 50074
        | 50072
        | 50158
        | 53000..=53011
        | 530_001..=530_040
        | 50005
        | 50097
        | 70043 => Code::Policy,
        _ => return None,
    })
}

fn of_oauth(error: &str) -> Option<Code> {
    Some(match error {
        "invalid_client" => Code::ClientAuthentication,
        "unauthorized_client" | "unsupported_grant_type" | "invalid_request" => {
            Code::AppRegistration
        }
        "invalid_scope" | "invalid_resource" | "invalid_target" => Code::Scope,
        "consent_required" => Code::Consent,
        "interaction_required" => Code::Policy,
        "invalid_grant" | "access_denied" | "expired_token" | "login_required" => Code::SignIn,
        _ => return None,
    })
}

/// Of a mail server's rejection, where its words tell it.
pub(super) fn of_mail_server(rejection: &Rejection) -> Option<Code> {
    let said = match rejection {
        Rejection::Busy { .. } => return Some(Code::Throttled),
        Rejection::Broken { .. } => return Some(Code::MailServer),
        Rejection::Token { said } | Rejection::NotPermitted { said } => said.to_lowercase(),
    };
    let has = |words: &str| said.contains(words);
    Some(if has("accesstokenexpired") || has("token has expired") {
        Code::TokenIdentity
    } else if has("smtpclientauthentication is disabled for the mailbox") {
        Code::SmtpAuthMailbox
    } else if has("smtpclientauthentication is disabled") {
        Code::SmtpAuthTenant
    } else if has("sendasdenied") || has("5.7.60") || has("send as this sender") {
        Code::SendAs
    } else if has("security defaults") || has("conditional access") {
        Code::Policy
    } else if has("imap is disabled") || has("pop is disabled") || has("protocol is disabled") {
        Code::ProtocolOff
    } else if explain::best(&said).is_some_and(|entry| entry.transient) {
        Code::Throttled
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_endpoints_words_by_what_has_to_be_mended() {
        let table = [
            ("invalid_request: AADSTS90002: Tenant 'x' not found.", Code::Tenant),
            (
                "unauthorized_client: AADSTS700016: Application with identifier",
                Code::AppRegistration,
            ),
            ("invalid_client: AADSTS7000215: Invalid client secret", Code::ClientAuthentication),
            (
                "invalid_client: AADSTS7000222: The provided client secret keys",
                Code::CredentialExpiry,
            ),
            ("invalid_grant: AADSTS65001: The user or administrator has not", Code::Consent),
            ("invalid_grant: AADSTS50076: Due to a configuration change", Code::Policy),
            ("invalid_grant: AADSTS50173: The provided grant has expired", Code::SignIn),
            ("invalid_scope: AADSTS70011: The provided request must include", Code::Scope),
            ("invalid_client", Code::ClientAuthentication),
            ("invalid_grant: grant request is invalid", Code::SignIn),
        ];
        for (said, code) in table {
            assert_eq!(of_token_endpoint(said), code, "{said}");
        }
    }
}
