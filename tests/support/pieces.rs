//! Input in pieces, as a network brings it.

use std::collections::VecDeque;

/// Pieces of these sizes, over and over.
pub(crate) fn split(input: &[u8], sizes: &[usize]) -> VecDeque<Vec<u8>> {
    let mut pieces = VecDeque::new();
    let mut rest = input;
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        pieces.push_back(piece.to_vec());
        rest = behind;
    }
    pieces
}
