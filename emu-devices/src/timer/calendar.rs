//! Gregorian calendar arithmetic for the clock chip.

const SECONDS_PER_DAY: i64 = 86_400;
/// Days of 400 years.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// A moment in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Full year.
    pub year: i64,
    /// 1-12.
    pub month: u8,
    /// 1-31.
    pub day: u8,
    /// 0-23.
    pub hour: u8,
    /// 0-59.
    pub minute: u8,
    /// 0-59.
    pub second: u8,
}

impl Calendar {
    /// From seconds since 1970-01-01.
    pub fn from_unix(seconds: i64) -> Self {
        // Years begin in March here, so that the leap day is the last day of a year.
        let days = seconds.div_euclid(SECONDS_PER_DAY).saturating_add(EPOCH);
        let era = days.div_euclid(DAYS_PER_ERA);
        let day_of_era = days.rem_euclid(DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        let second_of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            hour: (second_of_day / 3600) as u8,
            minute: (second_of_day / 60 % 60) as u8,
            second: (second_of_day % 60) as u8,
        }
    }

    /// Seconds since 1970-01-01. Fields out of range carry over (second 75 is 1:15), month and day
    /// 0 count as 1.
    pub fn to_unix(self) -> i64 {
        let months = i64::from(self.month.max(1)) - 1;
        let year = self.year.saturating_add(months / 12);
        let month = months % 12;
        let year = if month < 2 { year.saturating_sub(1) } else { year };
        let month_from_march = (month + 10) % 12;
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day.max(1)) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era.saturating_mul(DAYS_PER_ERA).saturating_add(day_of_era).saturating_sub(EPOCH);
        days.saturating_mul(SECONDS_PER_DAY).saturating_add(
            i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second),
        )
    }

    /// Day of the week, 1 = Sunday.
    pub fn weekday(self) -> u8 {
        let days = self.to_unix().div_euclid(SECONDS_PER_DAY);
        // 1970-01-01 was a Thursday (5).
        (days.saturating_add(4).rem_euclid(7) + 1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(year: i64, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Calendar {
        Calendar { year, month, day, hour, minute, second }
    }

    #[test]
    fn calendar_known_moments_convert_both_ways() {
        let table = [
            (0, date(1970, 1, 1, 0, 0, 0), 5),
            (951_782_399, date(2000, 2, 28, 23, 59, 59), 2),
            (951_782_400, date(2000, 2, 29, 0, 0, 0), 3),
            (1_709_164_790, date(2024, 2, 28, 23, 59, 50), 4),
            (4_107_542_400, date(2100, 3, 1, 0, 0, 0), 2),
            (-1, date(1969, 12, 31, 23, 59, 59), 4),
        ];
        for (seconds, calendar, weekday) in table {
            assert_eq!(Calendar::from_unix(seconds), calendar);
            assert_eq!(calendar.to_unix(), seconds);
            assert_eq!(calendar.weekday(), weekday);
        }
    }

    #[test]
    fn calendar_every_day_of_800_years_round_trips() {
        for day in -150_000..150_000 {
            let seconds = day * SECONDS_PER_DAY + 43_210;
            assert_eq!(Calendar::from_unix(seconds).to_unix(), seconds);
        }
    }

    #[test]
    fn calendar_fields_out_of_range_carry_over() {
        assert_eq!(date(2023, 13, 32, 24, 60, 60).to_unix(), date(2024, 2, 2, 1, 1, 0).to_unix());
        assert_eq!(date(2023, 0, 0, 0, 0, 0).to_unix(), date(2023, 1, 1, 0, 0, 0).to_unix());
    }
}
