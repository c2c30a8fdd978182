//! Dates of the Gregorian calendar and seconds since 1970, both ways.

const DAY_SECONDS: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// Days of 400 years.
const ERA_DAYS: i64 = 146_097;

/// A date and time of day in UTC. A guest may have set fields to values that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    /// Year, all digits.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl DateTime {
    /// The date and time `seconds` after (or before) the start of 1970.
    pub fn from_unix(seconds: i64) -> Self {
        let of_day = seconds.rem_euclid(DAY_SECONDS);
        // Years that begin in March have their leap day at the end, so that the months before it
        // have the same lengths every year.
        let days = seconds.div_euclid(DAY_SECONDS) + EPOCH_DAYS;
        let era = days.div_euclid(ERA_DAYS);
        let of_era = days.rem_euclid(ERA_DAYS);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = (from_march + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self {
            year: u16::try_from(year.clamp(0, 9999)).unwrap_or_default(),
            month: field(month),
            day: field(of_year - (153 * from_march + 2) / 5 + 1),
            hour: field(of_day / 3600),
            minute: field(of_day / 60 % 60),
            second: field(of_day % 60),
        }
    }

    /// Seconds since the start of 1970. Fields beyond their range carry over into the next.
    pub fn to_unix(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(self.day) - 1;
        let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
        let days = era * ERA_DAYS + of_era - EPOCH_DAYS;
        days * DAY_SECONDS
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }

    /// The year's last two digits.
    pub fn year_of_century(self) -> u8 {
        field((self.year % 100).into())
    }

    /// The year's digits before those. The guest sets it by a register of 8 bits.
    pub fn century(self) -> u8 {
        field((self.year / 100).into())
    }

    /// 1 for Sunday to 7 for Saturday.
    pub fn weekday(self) -> u8 {
        // 1970-01-01 was a Thursday.
        field((self.to_unix().div_euclid(DAY_SECONDS) + 4).rem_euclid(7) + 1)
    }
}

/// A part of a date as a register holds it.
fn field(value: i64) -> u8 {
    u8::try_from(value).expect("parts of dates have 8 bits")
}
