//! Any answer to a sign-in by browser, or what a person pastes in its place.

use gatepost::oauth::Redirected;

use super::case::Case;

/// A parameter counts if it stands once (RFC 6749 section 3.1), by whatever way the answer came.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let text = String::from_utf8_lossy(case.wire);
    let redirected = Redirected::of_query(&text);
    let pairs: Vec<_> = text.split('&').filter(|pair| !pair.is_empty()).collect();
    let written =
        |name: &str| pairs.iter().filter(|pair| pair.split('=').next() == Some(name)).count();
    // Names may also be written with percent signs.
    if !text.contains(['%', '+']) {
        assert_eq!(redirected.state.is_some(), written("state") == 1, "{text:?}");
        let is_answer = written("code") == 1 || written("error") == 1;
        assert_eq!(redirected.is_answer(), is_answer, "{text:?}");
    }
    let pasted = format!(" http://localhost:8080/?{text}\n");
    if !text.contains(['#', '?']) && text.trim() == text {
        assert_eq!(Redirected::of_pasted(&pasted).state, redirected.state);
    }
    Redirected::of_pasted(&text);
}
