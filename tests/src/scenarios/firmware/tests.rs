use super::without_cursor;

#[test]
fn text_is_whole_without_cursor_movements() {
    let said = "\x1b[0;30;47mWelcom\x1b[04;06H\x1b[04;07He to GRUB!\x1b[2";
    assert_eq!(without_cursor(said), "Welcome to GRUB!");
    assert_eq!(without_cursor("plain"), "plain");
}
