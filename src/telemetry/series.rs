//! A gauge whose series come and go.

use prometheus::IntGaugeVec;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A gauge with one series for each value of its labels.
#[derive(Debug)]
pub struct Series {
    gauges: IntGaugeVec,
    shown: Mutex<BTreeSet<Vec<String>>>,
}

impl Series {
    pub(super) fn new(gauges: IntGaugeVec) -> Series {
        Series { gauges, shown: Mutex::default() }
    }

    /// Shows these series and no others. A series that stays is not removed in between, so that a second
    /// scrape at the same time does not miss it.
    pub fn show(&self, series: impl IntoIterator<Item = (Vec<String>, i64)>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeSet::new();
        for (labels, value) in series {
            self.gauges.with_label_values(&labels).set(value);
            now.insert(labels);
        }
        for gone in shown.difference(&now) {
            // It can only fail for a series that is gone already.
            self.gauges.remove_label_values(gone).ok();
        }
        *shown = now;
    }

    /// Shows the one series of a gauge without labels, or none.
    pub fn show_value(&self, value: Option<i64>) {
        self.show(value.map(|value| (Vec::new(), value)));
    }
}
