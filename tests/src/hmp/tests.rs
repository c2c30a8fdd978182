use super::*;

#[test]
fn control_sequences_and_echo_are_removed() {
    let answer = "i\x1b[K\x1b[Din\x1b[K\x1b[D\x1b[Dinfo status\x1b[K\r\nVM status: running\r\n";
    let plain = plain_text(answer);
    assert_eq!(strip_echo(&plain, "info status"), "VM status: running\n");
}

#[test]
fn an_answer_without_echo_is_kept() {
    assert_eq!(
        strip_echo("No active jobs\n", "info block-jobs"),
        "No active jobs\n"
    );
}
