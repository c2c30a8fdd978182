//! Lengths of time.

use std::time::Duration;

/// Longer than any run, and far from overflowing a point in time: 1000 days.
const MAX: Duration = Duration::from_secs(1000 * 24 * 60 * 60);

/// Parses a length of time: a number of seconds, or one with the suffix ms, s, m or h. Fractions
/// are allowed.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("its unit is ms, s, m or h".into()),
    };
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit());
    let number: f64 = digits
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or("a length of time is a number with the suffix s, m or h, such as 60s")?;
    let duration = Duration::try_from_secs_f64(number * seconds).unwrap_or(Duration::MAX);
    match duration {
        Duration::ZERO => Err("it must be longer than nothing".into()),
        _ if duration > MAX => Err("it is at most 1000 days".into()),
        _ => Ok(duration),
    }
}

#[cfg(test)]
mod tests;
