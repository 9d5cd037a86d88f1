//! Monitoring: the truth about health, and what was measured.

pub mod alert;
pub mod health;
pub mod history;
pub mod notify;
pub mod report;
pub mod series;
pub mod trend;
