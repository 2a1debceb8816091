//! Any message that is cut for Microsoft Graph.

use std::cell::LazyCell;

use gatepost::outbox::{Content, Cut, cut, sealed};
use tokio::runtime::{Builder, Runtime};

use super::case::Case;
use super::wire::shown;

thread_local! {
    static RUNTIME: LazyCell<Runtime> =
        LazyCell::new(|| Builder::new_current_thread().build().expect("a runtime"));
}

/// What is left is as small as was asked, attachments have as many octets as they say and names that can't lead
/// anywhere, and what is left needs no cut.
pub fn check(data: &[u8]) {
    let Some(case) = Case::of(data) else { return };
    let content = Content::of_octets(case.wire.to_vec());
    let seal = sealed(&content).expect("it is in memory");
    let limit = usize::from(case.seed) % (case.wire.len() + 1);
    let Ok(Cut { rest, attachments }) = cut(&content, limit) else { return };
    assert!(rest.len() <= limit, "{:?}", shown(&rest));
    assert!(seal.is_none() || attachments.is_empty(), "a cut breaks {seal:?}");
    let mut whole = 0;
    for attachment in attachments {
        let name = attachment.name.clone();
        assert!(!name.is_empty() && !name.contains(|c: char| c.is_control() || "/\\".contains(c)));
        assert!(name != "." && name != "..", "{name:?}");
        assert!(attachment.content_type.contains('/'), "{:?}", attachment.content_type);
        let size = attachment.size;
        let next = attachment.next(size + 1);
        let (octets, _) = RUNTIME.with(|runtime| runtime.block_on(next)).expect("it was counted");
        assert_eq!(octets.len(), size);
        whole += size;
    }
    assert!(whole <= case.wire.len(), "{whole} octets of {}", case.wire.len());
}
