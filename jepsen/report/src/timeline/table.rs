//! Rows of a table within a budget of bytes: the most important ones are kept, and the rest counted.

pub struct Rows {
    /// In the order of the items.
    pub html: String,
    pub shown: usize,
    pub left_out: usize,
}

/// Keeps rows by rising `weight` until one does not fit into `budget` bytes.
pub fn fit<T, W: Ord>(
    items: &[T],
    budget: usize,
    weight: impl Fn(&T) -> W,
    row: impl Fn(&T) -> String,
) -> Rows {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&at| weight(&items[at]));
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for at in order {
        let row = row(&items[at]);
        bytes += row.len();
        if bytes > budget {
            break;
        }
        kept.push((at, row));
    }
    kept.sort_unstable_by_key(|(at, _)| *at);
    let shown = kept.len();
    let html = kept.into_iter().map(|(_, row)| row).collect();
    Rows { html, shown, left_out: items.len() - shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lightest_rows_are_kept_in_their_order() {
        let rows = fit(&[5_u32, 1, 9, 2], 3, |item| *item, |item| item.to_string());
        assert_eq!((rows.html.as_str(), rows.shown, rows.left_out), ("512", 3, 1));
        let none = fit(&["long"], 3, |_| 0, |item| (*item).to_owned());
        assert_eq!((none.shown, none.left_out), (0, 1));
    }
}
