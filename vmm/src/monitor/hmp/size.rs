//! Sizes as people type and read them.

pub(crate) use strata_block::human_size;

const MIB: u128 = 1 << 20;

/// Bytes of `text`: a decimal number with an optional fraction, or a hexadecimal one after `0x`,
/// and a suffix `B`, `k`, `M`, `G`, `T`, `P` or `E` in either case. Without a suffix it counts MiB,
/// as everywhere in HMP. `None` if it is anything else or does not fit a signed 64-bit integer.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, unit) = match text.chars().last()? {
        // These two are digits of a hexadecimal number.
        'b' | 'B' | 'e' | 'E' if hexadecimal.is_some() => (text, MIB),
        'b' | 'B' => (&text[..text.len() - 1], 1),
        'k' | 'K' => (&text[..text.len() - 1], 1 << 10),
        'm' | 'M' => (&text[..text.len() - 1], MIB),
        'g' | 'G' => (&text[..text.len() - 1], 1 << 30),
        't' | 'T' => (&text[..text.len() - 1], 1 << 40),
        'p' | 'P' => (&text[..text.len() - 1], 1 << 50),
        'e' | 'E' => (&text[..text.len() - 1], 1 << 60),
        _ => (text, MIB),
    };
    let bytes = if hexadecimal.is_some() {
        number(digits.get(2..)?, 16)?.checked_mul(unit)?
    } else {
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let part = number(fraction, 10)?.checked_mul(unit)?;
        let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        if unit == 1 && part != 0 {
            return None;
        }
        number(whole, 10)?
            .checked_mul(unit)?
            .checked_add(part / scale)?
    };
    i64::try_from(bytes).ok()?.try_into().ok()
}

/// Digits alone: no sign, at least one.
fn number(digits: &str, radix: u32) -> Option<u128> {
    let all_digits = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    all_digits.then(|| u128::from_str_radix(digits, radix).ok())?
}
