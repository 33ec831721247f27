//! Causal attention in batched products, and its backward pass. Scores of size (heads, L, L) exist for one block of
//! groups of rows at a time; nothing of that size is kept for the backward pass.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::nn::attention::{Heads, Segment};

/// Rows that attend to each other, with a mask of which sees which.
#[derive(Debug)]
struct Group {
    start: usize,
    len: usize,
    /// 0 where row i sees row j, minus infinity elsewhere (len,len).
    mask: Vec<f32>,
}

/// Scores that one block may have. Attention takes a batch in blocks of at most so many, or of one group.
const SCORES: usize = 1 << 28;

/// Groups of one batched product, each padded to the longest of them.
#[derive(Debug, Clone)]
struct Block {
    /// G
    groups: usize,
    /// L
    len: usize,
    /// Packed row at each place (G*L); row 0 where the place is padding.
    rows: Tensor,
    /// 1 where the place holds a row, 0 where it is padding (G*L,1).
    valid: Tensor,
    /// 0 where place i sees place j, minus infinity elsewhere (G,1,L,L).
    mask: Tensor,
}

/// Which rows of a packed batch see which, as [`attention`] takes it.
#[derive(Debug, Clone)]
pub struct Visible {
    blocks: Vec<Block>,
    /// Place of each packed row among those of all blocks (N).
    place_of: Tensor,
}

fn group(segments: &[Segment], window: usize) -> Result<Group> {
    let start = segments.first().map_or(0, |s| s.start);
    let len: usize = segments.iter().map(|s| s.len).sum();
    let mut mask = vec![f32::NEG_INFINITY; len * len];
    for segment in segments {
        for row in segment.start..segment.start + segment.len {
            let place = segment.prefix_len + row - segment.start;
            // Place in its sequence of the first position that it sees.
            let first = if window == 0 { 0 } else { (place + 1).saturating_sub(window) };
            let prefix =
                segment.prefix_start + first.min(segment.prefix_len)..segment.prefix_start + segment.prefix_len;
            let own = segment.start + first.saturating_sub(segment.prefix_len)..row + 1;
            for keys in [prefix, own].into_iter().filter(|keys| !keys.is_empty()) {
                let line = row.checked_sub(start).filter(|&i| i < len).map(|i| i * len);
                let keys =
                    keys.start.checked_sub(start).filter(|_| keys.end - start <= len).map(|j| j..keys.end - start);
                let (Some(line), Some(keys)) = (line, keys) else {
                    candle_core::bail!("a group's rows do not lie together")
                };
                mask[line + keys.start..line + keys.end].fill(0.0);
            }
        }
    }
    Ok(Group { start, len, mask })
}

/// Which rows of a packed batch see which, for so many query heads. A row sees `window` positions, its own among them,
/// counted along its sequence (prefix, then segment); 0 for all.
///
/// # Errors
/// [`candle_core::Error`] where the rows of a group do not lie together.
pub fn visible(
    segments: &[Segment],
    window: usize,
    query_heads: usize,
    dtype: DType,
    device: &Device,
) -> Result<Visible> {
    let groups = segments.chunk_by(|a, b| a.group == b.group).map(|g| group(g, window)).collect::<Result<Vec<_>>>()?;
    // Groups of similar length come together, so that there is little padding.
    let mut order: Vec<&Group> = groups.iter().filter(|g| g.len > 0).collect();
    order.sort_by_key(|g| std::cmp::Reverse(g.len));
    let mut place_of = vec![0u32; groups.iter().map(|g| g.len).sum()];
    let (mut blocks, mut before, mut rest) = (Vec::new(), 0, order.as_slice());
    while let Some(first) = rest.first() {
        let len = first.len;
        let most = (SCORES / (query_heads * len * len)).max(1);
        let (taken, others) = rest.split_at(rest.iter().take(most).take_while(|g| 2 * g.len > len).count());
        rest = others;
        let mut rows = vec![0u32; taken.len() * len];
        let mut valid = vec![0f32; taken.len() * len];
        let mut mask = vec![f32::NEG_INFINITY; taken.len() * len * len];
        for (g, group) in taken.iter().enumerate() {
            for i in 0..len {
                let (place, line) = (g * len + i, &mut mask[(g * len + i) * len..][..len]);
                if i < group.len {
                    line[..group.len].copy_from_slice(&group.mask[i * group.len..][..group.len]);
                    let Some(of) = place_of.get_mut(group.start + i) else {
                        candle_core::bail!("a group's rows do not lie together")
                    };
                    *of = (before + place) as u32;
                    rows[place] = (group.start + i) as u32;
                    valid[place] = 1.0;
                } else {
                    // A softmax over minus infinity alone would be NaN.
                    line[i] = 0.0;
                }
            }
        }
        let wide = |values: Vec<f32>, shape: &[usize]| -> Result<Tensor> {
            Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        blocks.push(Block {
            groups: taken.len(),
            len,
            rows: Tensor::from_vec(rows, taken.len() * len, device)?,
            valid: wide(valid, &[taken.len() * len, 1])?,
            mask: wide(mask, &[taken.len(), 1, len, len])?,
        });
        before += taken.len() * len;
    }
    let n = place_of.len();
    Ok(Visible { blocks, place_of: Tensor::from_vec(place_of, n, device)? })
}

impl Block {
    /// Queries: (N, Hkv*S*D) -> (G*Hkv, S*L, D). The S queries of one key-value head are rows of one product. Keys and
    /// values: the same with S = 1.
    fn spread(&self, x: &Tensor, heads: Heads, share: usize) -> Result<Tensor> {
        let x = x.contiguous()?.index_select(&self.rows, 0)?.reshape((
            self.groups,
            self.len,
            heads.kv,
            share,
            heads.size,
        ))?;
        x.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((self.groups * heads.kv, share * self.len, heads.size))
    }

    /// The inverse of [`Block::spread`]: (G*Hkv, S*L, D) -> (G*L, Hkv*S*D).
    fn gathered(&self, x: &Tensor, heads: Heads, share: usize) -> Result<Tensor> {
        let x = x.reshape((self.groups, heads.kv, share, self.len, heads.size))?;
        x.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((self.groups * self.len, heads.kv * share * heads.size))
    }

    /// `softmax(q k^T / sqrt(D))`, of the mask's type: (G*Hkv, S*L, L).
    fn probabilities(&self, q: &Tensor, k: &Tensor, heads: Heads) -> Result<Tensor> {
        let (batch, rows, len) = (self.groups * heads.kv, q.dim(1)?, self.len);
        let scale = (heads.size as f64).sqrt().recip();
        let scores = (q.matmul(&k.transpose(1, 2)?)?.to_dtype(self.mask.dtype())? * scale)?;
        let scores = scores.reshape((self.groups, heads.kv * rows / len, len, len))?.broadcast_add(&self.mask)?;
        candle_nn::ops::softmax_last_dim(&scores)?.reshape((batch, rows, len))
    }
}

/// Causal attention within each group, without a graph: [`backward`] finds its gradients. Scores and
/// probabilities are of the masks' type, whatever q, k and v are.
///
/// # Shapes
/// q (N, Hq*D) · k, v (N, Hkv*D) -> (N, Hq*D).
///
/// # Errors
/// [`candle_core::Error`].
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, visible: &Visible, heads: Heads) -> Result<Tensor> {
    let share = heads.query / heads.kv;
    let (q, k, v) = (q.detach(), k.detach(), v.detach());
    let parts = visible.blocks.iter().map(|block| {
        let (q, k) = (block.spread(&q, heads, share)?, block.spread(&k, heads, 1)?);
        let p = block.probabilities(&q, &k, heads)?.to_dtype(v.dtype())?;
        block.gathered(&p.matmul(&block.spread(&v, heads, 1)?)?, heads, share)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?.index_select(&visible.place_of, 0)
}

/// Gradients of q, k and v from that of [`attention`]'s result. Probabilities are computed again.
///
/// # Shapes
/// As [`attention`]; dout as its result.
///
/// # Errors
/// [`candle_core::Error`].
pub fn backward([q, k, v]: [&Tensor; 3], dout: &Tensor, visible: &Visible, heads: Heads) -> Result<[Tensor; 3]> {
    let share = heads.query / heads.kv;
    let scale = (heads.size as f64).sqrt().recip();
    let (q, k, v, dout) = (q.detach(), k.detach(), v.detach(), dout.detach().to_dtype(v.dtype())?);
    let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
    for block in &visible.blocks {
        let (q, k, v) = (block.spread(&q, heads, share)?, block.spread(&k, heads, 1)?, block.spread(&v, heads, 1)?);
        let p = block.probabilities(&q, &k, heads)?;
        // Padding holds row 0's gradient, which is not its own.
        let dout = block.spread(&dout, heads, share)?;
        let valid = block.valid.to_dtype(dout.dtype())?.reshape((block.groups, 1, 1, block.len, 1))?;
        let dout = dout
            .reshape((block.groups, heads.kv, share, block.len, heads.size))?
            .broadcast_mul(&valid)?
            .reshape(dout.shape())?;
        let dv = p.to_dtype(v.dtype())?.transpose(1, 2)?.matmul(&dout)?;
        let dp = dout.matmul(&v.transpose(1, 2)?)?.to_dtype(p.dtype())?;
        let inner = (&p * &dp)?.sum_keepdim(D::Minus1)?;
        let ds = ((p * dp.broadcast_sub(&inner)?)? * scale)?.to_dtype(q.dtype())?;
        dqs.push(block.gathered(&ds.matmul(&k)?, heads, share)?);
        dks.push(block.gathered(&ds.transpose(1, 2)?.matmul(&q)?, heads, 1)?);
        dvs.push(block.gathered(&dv, heads, 1)?);
    }
    let joined = |parts: Vec<Tensor>| Tensor::cat(&parts, 0)?.index_select(&visible.place_of, 0);
    Ok([joined(dqs)?, joined(dks)?, joined(dvs)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Precision, attention as fused, check};

    const HEADS: Heads = Heads { query: 4, kv: 2, size: 4 };

    fn input(key: &str, shape: (usize, usize)) -> (Tensor, Vec<f64>) {
        let values = check::numbers(key, shape.0 * shape.1);
        (Tensor::from_vec(values.clone(), shape, &Device::Cpu).unwrap(), values)
    }

    #[track_caller]
    fn close(what: &str, a: &Tensor, b: &[f64]) {
        let a = a.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(a.len(), b.len(), "{what}");
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() < 1e-10, "{what}[{i}]: composed {a}, kernel {b}");
        }
    }

    #[test]
    fn attention_is_the_kernel_s() {
        let s = |start, len, prefix_start, prefix_len, group| Segment { start, len, prefix_start, prefix_len, group };
        let segments = [s(0, 3, 0, 0, 0), s(3, 4, 0, 3, 0), s(7, 2, 0, 3, 0), s(9, 11, 0, 0, 1)];
        let n = 20;
        let (qw, kvw) = (HEADS.query * HEADS.size, HEADS.kv * HEADS.size);
        let ((q, qs), (k, ks), (v, vs)) = (input("q", (n, qw)), input("k", (n, kvw)), input("v", (n, kvw)));
        let dy = check::numbers("dy", n * qw);
        for window in [0, 1, 2, 5] {
            let seen = visible(&segments, window, HEADS.query, DType::F64, &Device::Cpu).unwrap();
            // The group of nine rows is padded to eleven.
            assert_eq!(seen.blocks.len(), 1);
            let y = attention(&q, &k, &v, &seen, HEADS).unwrap();
            let scheme = fused::Scheme { segments: &segments, heads: HEADS, window, precision: Precision::F32 };
            let (mut out, mut lse) = (vec![0.0; n * qw], vec![0.0; n * HEADS.query]);
            fused::forward(&qs, &ks, &vs, &mut out, &mut lse, &scheme);
            close("out", &y, &out);
            let (mut dq, mut dk, mut dv) = (vec![0.0; n * qw], vec![0.0; n * kvw], vec![0.0; n * kvw]);
            let saved = fused::Saved { q: &qs, k: &ks, v: &vs, out: &out, lse: &lse, dout: &dy };
            fused::backward(&saved, &mut dq, &mut dk, &mut dv, &scheme);
            let dout = Tensor::from_slice(&dy, (n, qw), &Device::Cpu).unwrap();
            let found = backward([&q, &k, &v], &dout, &seen, HEADS).unwrap();
            close("dq", &found[0], &dq);
            close("dk", &found[1], &dk);
            close("dv", &found[2], &dv);
        }
    }

    #[test]
    fn a_group_lies_in_one_piece() {
        let s = |start, len, prefix_len| Segment { start, len, prefix_start: 0, prefix_len, group: 0 };
        let of = |segments: &[Segment]| visible(segments, 0, 1, DType::F32, &Device::Cpu);
        assert!(of(&[s(0, 3, 0), s(3, 2, 3)]).is_ok());
        assert!(of(&[s(0, 3, 0), s(5, 2, 3)]).is_err());
    }
}
