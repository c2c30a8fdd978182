//! Whatever is typed, the answer is text with whole lines, and at most one action.

use proptest::prelude::*;

use super::execute;
use super::table::COMMANDS;
use crate::monitor::machine::{Action, Answer, Machine, RunState};
use crate::monitor::step::Step;

/// Nothing is asked of it: lines are interpreted, and what they come to is not carried out.
struct Idle;

impl Machine for Idle {
    fn run_state(&self) -> RunState {
        RunState::Running
    }

    fn request(&self, _: Action, _: Answer) {}
}

fn lines_are_whole(text: &str) -> bool {
    (text.is_empty() || text.ends_with("\r\n")) && !text.replace("\r\n", "").contains('\n')
}

const WORDS: &[&str] = &[
    "-f", "-n", "-v", "-", "0", "1M", "0x", "virtio0", "block", "\"a b\"", "\"", "ü",
];

/// A command's name, and words that are likely to be arguments.
fn nearly_a_command() -> impl Strategy<Value = String> {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let word = prop_oneof![
        4 => proptest::sample::select(WORDS).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let words = proptest::collection::vec(word, 0..5);
    (proptest::sample::select(names), words)
        .prop_map(|(name, words)| format!("{name} {}", words.join(" ")))
}

proptest! {
    #[test]
    fn every_line_gets_an_answer(line in prop_oneof![nearly_a_command(), any::<String>()]) {
        if let Step::Done(text) = execute(&line, &Idle) {
            // A line feed that was typed as part of a word is echoed as one.
            prop_assert!(lines_are_whole(&text), "{text:?}");
        }
    }
}

#[test]
fn commands_stand_in_order_and_share_no_name() {
    assert!(COMMANDS.is_sorted_by_key(|command| command.name));
    let aliases = COMMANDS.iter().filter_map(|command| command.alias);
    let mut names: Vec<&str> = COMMANDS
        .iter()
        .map(|command| command.name)
        .chain(aliases)
        .collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
