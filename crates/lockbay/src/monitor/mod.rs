//! Monitoring: the truth about health.

pub mod health;
