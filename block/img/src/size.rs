//! Sizes as people write and read them.

pub use strata_block::human_size as human;

const UNITS: &str = "BKMGTPE";

/// Largest size that is read: what the host's calls can name.
pub const MAX: u64 = i64::MAX as u64;

/// Reads a size in bytes, [`MAX`] at most: a number, in decimal and perhaps with a fraction or,
/// behind `0x`, in hexadecimal, and perhaps a unit (`k`, `M`, `G`, `T`, `P`, `E`: powers of 1024).
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "Invalid size '{text}': a number with an optional unit k, M, G, T, P or E is needed"
        )
    };
    let hex = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let (digits, radix) = hex.map_or((text, 10), |hex| (hex, 16));
    let is_unit = |c: &char| c.is_ascii_alphabetic() && !(hex.is_some() && c.is_ascii_hexdigit());
    let unit = digits.chars().next_back().filter(is_unit);
    let number = unit.map_or(digits, |_| &digits[..digits.len() - 1]);
    let power = match unit {
        None => 0,
        Some(unit) => UNITS.find(unit.to_ascii_uppercase()).ok_or_else(wrong)?,
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if hex.is_none() => (whole, fraction),
        Some(_) => return Err(wrong()),
        None => (number, ""),
    };
    let is_number = |digits: &str| digits.bytes().all(|b| char::from(b).is_digit(radix));
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return Err(wrong());
    }
    let factor = 1u64 << (10 * power);
    // What is no number for other reasons is too large a one.
    let whole = u64::from_str_radix(whole, radix).ok();
    let part = format!("0.{fraction}0").parse::<f64>();
    let part = part.map_err(|_| wrong())? * factor as f64;
    if power == 0 && part > 0.0 {
        return Err(wrong());
    }
    // A part of the factor, and that is 2^60 at most.
    #[allow(clippy::cast_possible_truncation)]
    let part = part as u64;
    let bytes = whole.and_then(|whole| whole.checked_mul(factor)?.checked_add(part));
    bytes
        .filter(|bytes| *bytes <= MAX)
        .ok_or_else(|| format!("Invalid size '{text}': it must be between 0 and {MAX} bytes"))
}

/// Reads a speed limit (`-r`), in bytes a second; none is 0.
pub fn rate(text: Option<&str>) -> Result<u64, String> {
    let rate = text.map(|text| parse(text).map_err(|_| format!("Invalid rate limit '{text}'")));
    Ok(rate.transpose()?.unwrap_or(0))
}

#[cfg(test)]
mod tests;
