//! Chance as an argument.

/// A source of random numbers.
pub trait Rng: Send {
    /// The next 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// A number in `0..bound`; 0 when `bound` is 0 or 1.
    ///
    /// Multiply-and-shift (Lemire): the bias is below `bound / 2^64`, which no caller can notice.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// True once in `one_in` calls, on average.
    fn one_in(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// Fills `buffer` with random bytes.
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

/// A generator that repeats itself for the same seed: xoshiro256** by Blackman and Vigna, its
/// state filled by splitmix64. Not for secrets.
#[derive(Debug, Clone)]
pub struct SeededRng {
    state: [u64; 4],
}

impl SeededRng {
    /// The generator of this seed; every seed is good, also 0.
    pub fn new(seed: u64) -> SeededRng {
        let mut x = seed;
        let state = std::array::from_fn(|_| {
            x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        SeededRng { state }
    }
}

impl Rng for SeededRng {
    fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

/// Bytes that [`RealRng`] asks of the kernel at once. Requests of up to 256 bytes are never cut
/// short by a signal (getrandom(2)), and one system call serves 32 numbers.
const REAL_RNG_BUFFER_BYTES: usize = 256;

/// The kernel's generator; good enough for secrets.
#[derive(Debug)]
pub struct RealRng {
    buffer: [u8; REAL_RNG_BUFFER_BYTES],
    used: usize,
}

impl RealRng {
    /// A generator with an empty buffer.
    pub fn new() -> RealRng {
        RealRng {
            buffer: [0; REAL_RNG_BUFFER_BYTES],
            used: REAL_RNG_BUFFER_BYTES,
        }
    }
}

impl Default for RealRng {
    fn default() -> RealRng {
        RealRng::new()
    }
}

impl Rng for RealRng {
    fn next_u64(&mut self) -> u64 {
        if self.used == REAL_RNG_BUFFER_BYTES {
            crate::mmap::random_bytes(&mut self.buffer);
            self.used = 0;
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.buffer[self.used..self.used + 8]);
        // What was handed out is not kept, so that a later leak of memory tells nothing about it.
        self.buffer[self.used..self.used + 8].fill(0);
        self.used += 8;
        u64::from_le_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_another_does_not() {
        let draw = |seed| {
            let mut rng = SeededRng::new(seed);
            (0..8).map(|_| rng.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn below_reaches_every_value_and_no_other() {
        let mut rng = SeededRng::new(1);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(
            seen.iter().all(|&n| (800..1200).contains(&n)),
            "uneven: {seen:?}"
        );
        assert_eq!(rng.below(1), 0);
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn the_kernel_gives_different_numbers() {
        let mut rng = RealRng::new();
        let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| rng.next_u64()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
