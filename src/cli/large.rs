//! Letters that can be read from across a room: the code of a sign-in on another device.
//!
//! Invariant: no line is wider than a terminal of 80 columns; what does not fit goes on below.

/// A letter a line: the letter, then its five rows.
const FONT: &str = include_str!("large.txt");

const ROWS: usize = 5;

/// Letters beside each other: each has five columns and a gap of two.
const ABREAST: usize = 11;

/// `text` in large letters. A character that the font does not have is left as it is, in the middle row.
pub(super) fn large(text: &str) -> String {
    let letters: Vec<[String; ROWS]> = text.chars().map(rows).collect();
    let blocks = letters.chunks(ABREAST).map(|letters| {
        let row = |row| {
            let row: Vec<_> = letters.iter().filter_map(|rows| rows.get(row)).cloned().collect();
            format!("   {}\n", row.join("  ").trim_end())
        };
        (0..ROWS).map(row).collect::<String>()
    });
    blocks.collect::<Vec<_>>().join("\n")
}

fn rows(letter: char) -> [String; ROWS] {
    let wanted = letter.to_ascii_uppercase();
    let found = FONT.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix('|'));
    let mut rows = [const { String::new() }; ROWS];
    match found {
        Some(found) => {
            for (row, written) in rows.iter_mut().zip(found.split('|')) {
                *row = written.replace('#', "\u{2588}");
            }
        }
        None => {
            for (number, row) in rows.iter_mut().enumerate() {
                *row = if number == ROWS / 2 { letter.to_string() } else { " ".into() };
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_letter_of_a_code_is_there() {
        for letter in ('A'..='Z').chain('0'..='9').chain(['-']) {
            assert!(rows(letter).iter().all(|row| row.chars().count() == 5), "{letter}");
        }
        let code = large("BCDF-GHJK");
        assert_eq!(code.lines().count(), 5);
        assert!(large("ABCDEFGHIJKLM").lines().all(|line| line.chars().count() < 80));
    }
}
