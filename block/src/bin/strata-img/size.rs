//! Sizes as people write and read them.

const UNITS: &str = "BKMGTPE";

/// Reads a size in bytes: a number, perhaps with a fraction, and perhaps a unit (`k`, `M`, `G`,
/// `T`, `P`, `E`: powers of 1024).
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "Invalid size '{text}': a number with an optional unit k, M, G, T, P or E is needed"
        )
    };
    let unit = text.chars().next_back().filter(char::is_ascii_alphabetic);
    let number = unit.map_or(text, |_| &text[..text.len() - 1]);
    let power = match unit {
        None => 0,
        Some(unit) => UNITS.find(unit.to_ascii_uppercase()).ok_or_else(wrong)?,
    };
    let factor = 1u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = number.parse::<f64>().ok().filter(|_| plain && power > 0);
    let bytes = value.ok_or_else(wrong)? * factor as f64;
    if bytes >= u64::MAX as f64 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// Reads a speed limit (`-r`), in bytes a second; none is 0.
pub fn rate(text: Option<&str>) -> Result<u64, String> {
    let rate = text.map(|text| parse(text).map_err(|_| format!("Invalid rate limit '{text}'")));
    Ok(rate.transpose()?.unwrap_or(0))
}

/// A size with three significant digits and a unit, as `qemu-img info` shows it.
pub fn human(bytes: u64) -> String {
    let mut power = 0;
    let mut value = bytes as f64;
    while value >= 1000.0 && power + 1 < UNITS.len() {
        value /= 1024.0;
        power += 1;
    }
    let decimals = match value {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    let unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][power];
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests;
