//! Numbers in few bytes: one column of a chunk.
//!
//! A column is written as differences between neighbours, or as they are, whichever is shorter. In
//! both cases the least one is taken off, what is left is divided by its greatest common divisor,
//! and each group of 32 takes as many bits as its largest needs. So a counter that stands still
//! costs a byte, one that grows evenly a few, and noise about as many bits as it has.
//!
//! All arithmetic wraps, so every `i64` and every `u64` (as an `i64` of the same bits) comes back.
//! What is read may be damaged: then nothing is read, and nothing panics.

/// Values that share a width.
const GROUP: usize = 32;
/// No column is longer: what is read says how long it is, and may be damaged.
pub(super) const MAX_VALUES: usize = 1 << 16;

const ZEROES: u8 = 0;
const PLAIN: u8 = 1;
const DELTAS: u8 = 2;

/// Writes a column. Its length is not written.
pub(super) fn pack(values: &[i64], to: &mut Vec<u8>) {
    if values.iter().all(|value| *value == 0) {
        return to.push(ZEROES);
    }
    let mut plain = vec![PLAIN];
    pack_group(values, &mut plain);
    let mut deltas = vec![DELTAS];
    if let Some((first, rest)) = values.split_first() {
        write_signed(*first, &mut deltas);
        let steps = rest.iter().zip(values).map(|(next, value)| next.wrapping_sub(*value));
        pack_group(&steps.collect::<Vec<_>>(), &mut deltas);
    }
    to.extend(if deltas.len() < plain.len() { deltas } else { plain });
}

/// Reads a column of this length and leaves what is behind it; nothing if it is damaged.
pub(super) fn unpack(from: &mut &[u8], length: usize) -> Option<Vec<i64>> {
    if length > MAX_VALUES {
        return None;
    }
    match byte(from)? {
        ZEROES => Some(vec![0; length]),
        PLAIN => unpack_group(from, length),
        DELTAS => {
            let Some(rest) = length.checked_sub(1) else { return Some(Vec::new()) };
            let mut value = read_signed(from)?;
            let steps = unpack_group(from, rest)?;
            let mut values = Vec::with_capacity(length);
            values.push(value);
            for step in steps {
                value = value.wrapping_add(step);
                values.push(value);
            }
            Some(values)
        }
        _ => None,
    }
}

fn pack_group(values: &[i64], to: &mut Vec<u8>) {
    let least = values.iter().min().copied().unwrap_or(0);
    write_signed(least, to);
    let above: Vec<u64> =
        values.iter().map(|value| value.wrapping_sub(least).cast_unsigned()).collect();
    let mut divisor = 0;
    for value in &above {
        divisor = common_divisor(divisor, *value);
        if divisor == 1 {
            break;
        }
    }
    write(divisor, to);
    if divisor == 0 {
        return; // all are the same
    }
    for group in above.chunks(GROUP) {
        let largest = group.iter().max().copied().unwrap_or(0) / divisor;
        let width = u64::BITS - largest.leading_zeros();
        to.push(u8::try_from(width).unwrap_or(64));
        let mut bits = Bits::default();
        for value in group {
            bits.push(value / divisor, width, to);
        }
        bits.finish(to);
    }
}

fn unpack_group(from: &mut &[u8], length: usize) -> Option<Vec<i64>> {
    let least = read_signed(from)?;
    let divisor = read(from)?;
    if divisor == 0 {
        return Some(vec![least; length]);
    }
    let mut values = Vec::with_capacity(length);
    while values.len() < length {
        let group = GROUP.min(length - values.len());
        let width = u32::from(byte(from)?);
        if width > u64::BITS {
            return None;
        }
        let bytes = (group * width as usize).div_ceil(8);
        let (bits, rest) = from.split_at_checked(bytes)?;
        *from = rest;
        for at in 0..group {
            let above = bits_at(bits, at * width as usize, width).wrapping_mul(divisor);
            values.push(least.wrapping_add(above.cast_signed()));
        }
    }
    Some(values)
}

/// Bits that do not fill a byte yet.
#[derive(Default)]
struct Bits {
    held: u128,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u64, width: u32, to: &mut Vec<u8>) {
        self.held |= u128::from(value) << self.count;
        self.count += width;
        while self.count >= 8 {
            to.push((self.held & 0xff) as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn finish(self, to: &mut Vec<u8>) {
        if self.count > 0 {
            to.push((self.held & 0xff) as u8);
        }
    }
}

/// So many bits from this bit on. They lie in nine bytes at most.
fn bits_at(bytes: &[u8], bit: usize, width: u32) -> u64 {
    let (first, shift) = (bit / 8, bit % 8);
    let mut window = [0; 16];
    let near = &bytes[first.min(bytes.len())..(first + 9).min(bytes.len())];
    window[..near.len()].copy_from_slice(near);
    let value = u128::from_le_bytes(window) >> shift;
    #[allow(clippy::cast_possible_truncation)] // a width is 64 bits at most
    let value = (value & ((1u128 << width) - 1)) as u64;
    value
}

fn common_divisor(mut left: u64, mut right: u64) -> u64 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

/// Writes a number in as many groups of seven bits as it needs.
pub(super) fn write(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push((value & 0x7f) as u8);
}

/// Reads such a number.
pub(super) fn read(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..u64::BITS).step_by(7) {
        let next = byte(from)?;
        value |= u64::from(next & 0x7f).checked_shl(shift)?;
        if next < 0x80 {
            return Some(value);
        }
    }
    None
}

fn write_signed(value: i64, to: &mut Vec<u8>) {
    write(((value << 1) ^ (value >> 63)).cast_unsigned(), to);
}

fn read_signed(from: &mut &[u8]) -> Option<i64> {
    let value = read(from)?;
    Some((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

pub(super) fn byte(from: &mut &[u8]) -> Option<u8> {
    let (first, rest) = from.split_first()?;
    *from = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(values: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(values, &mut bytes);
        bytes
    }

    fn comes_back(values: &[i64]) {
        let bytes = packed(values);
        let mut from = &bytes[..];
        assert_eq!(unpack(&mut from, values.len()).as_deref(), Some(values));
        assert!(from.is_empty(), "something is left of {values:?}");
    }

    #[test]
    fn extremes_come_back() {
        let edges = [0, 1, -1, i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1, u32::MAX.into()];
        comes_back(&[]);
        for first in edges {
            comes_back(&[first]);
            for second in edges {
                comes_back(&[first, second]);
                for third in edges {
                    comes_back(&[first, second, third, first]);
                }
            }
        }
        comes_back(
            &(0..100).map(|n| if n % 2 == 0 { i64::MIN } else { i64::MAX }).collect::<Vec<_>>(),
        );
    }

    #[test]
    fn what_does_not_move_or_moves_evenly_takes_a_few_bytes() {
        assert_eq!(packed(&[0; 360]).len(), 1);
        assert!(packed(&[1_234_567_890; 360]).len() < 10);
        let even: Vec<i64> = (0..360).map(|n| 1_000_000 + n * 10_000_000).collect();
        assert!(packed(&even).len() < 16, "{}", packed(&even).len());
        let pages: Vec<i64> = (0..360).map(|n| 4_096_000 * (1_000 + n * 7 % 13)).collect();
        assert!(packed(&pages).len() < 360 * 5 / 8 + 40, "{}", packed(&pages).len());
    }

    proptest! {
        #[test]
        fn any_numbers_come_back(values in prop::collection::vec(any::<i64>(), 0..400)) {
            comes_back(&values);
        }

        #[test]
        fn any_unsigned_numbers_come_back(values in prop::collection::vec(any::<u64>(), 0..100)) {
            comes_back(&values.iter().map(|value| *value as i64).collect::<Vec<_>>());
        }

        #[test]
        fn small_steps_come_back(first in any::<i64>(), steps in prop::collection::vec(0i64..50, 0..400)) {
            let mut value = first;
            let values: Vec<i64> = steps.iter().map(|step| { value = value.wrapping_add(*step); value }).collect();
            comes_back(&values);
        }

        #[test]
        fn damage_is_refused_or_read_as_something_and_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0usize..500,
        ) {
            if let Some(values) = unpack(&mut &bytes[..], length) {
                prop_assert_eq!(values.len(), length);
            }
        }
    }
}
