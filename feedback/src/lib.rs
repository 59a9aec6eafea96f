//! Preference data: record formats and their files. Knows neither models nor HTTP.
