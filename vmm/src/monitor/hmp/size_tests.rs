//! Sizes as QEMU reads and writes them.

use super::size::{human_size, parse_size};

#[test]
fn sizes_are_read() {
    let sizes = [
        ("0", 0),
        ("1", 1 << 20),
        ("1.5", 3 << 19),
        ("3B", 3),
        ("3b", 3),
        ("3k", 3 << 10),
        ("3K", 3 << 10),
        ("128k", 131_072),
        ("2M", 2 << 20),
        ("2g", 2 << 30),
        ("2T", 2 << 40),
        ("2P", 2 << 50),
        ("7E", 7 << 60),
        ("0.5G", 1 << 29),
        ("1.0B", 1),
        ("0x10", 16 << 20),
        ("0X1fk", 31 << 10),
        // Digits of a hexadecimal number, not suffixes.
        ("0xB", 11 << 20),
        ("0xe", 14 << 20),
    ];
    for (text, bytes) in sizes {
        assert_eq!(parse_size(text), Some(bytes), "{text}");
    }
}

#[test]
fn anything_else_is_no_size() {
    let words = [
        "",
        "A",
        "k",
        "-1",
        "+1",
        "1Q",
        "1kB",
        "1 ",
        " 1",
        "1e3",
        "8E",
        "9E",
        "1.5B",
        "1.",
        ".5",
        "1..5",
        "1.5.5",
        "0x",
        "0xk",
        "0x1.5",
        "./5",
        "5/",
        "ä",
        "٣",
        "1.-5",
        "99999999999999999999999999999999999999999999",
        "0.99999999999999999999999999999999999999999",
    ];
    for word in words {
        assert_eq!(parse_size(word), None, "{word}");
    }
}

#[test]
fn sizes_are_written_with_three_digits() {
    let sizes = [
        (0, "0 B"),
        (512, "512 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (4096, "4 KiB"),
        (200_704, "196 KiB"),
        (1_048_576, "1 MiB"),
        (1_572_864, "1.5 MiB"),
        (10_590_618, "10.1 MiB"),
        (1 << 40, "1 TiB"),
        (u64::MAX, "16 EiB"),
    ];
    for (bytes, text) in sizes {
        assert_eq!(human_size(bytes), text);
    }
}
