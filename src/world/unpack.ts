/** Bodies that came with a `Content-Encoding`: gzip, deflate or br, unpacked within a limit (RFC 9110 section 8.4.1). */
import { brotliDecompress, gunzip, inflate, inflateRaw } from 'node:zlib'

/** `unknown`: another encoding, or several: the body is left as it is. */
export type Unpacked =
  | { readonly kind: 'body'; readonly body: Buffer }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'damaged' }
  | { readonly kind: 'too-big' }

/** Never rejects. No more than `maxBytes` are ever unpacked. */
export function unpack(encoding: string, body: Buffer, maxBytes: number): Promise<Unpacked> {
  const decode = decoderFor(encoding, body)
  if (!decode) return Promise.resolve({ kind: 'unknown' })
  return new Promise((resolve) => {
    decode(body, { maxOutputLength: maxBytes }, (error, unpacked) => {
      if (!error) resolve({ kind: 'body', body: unpacked })
      else resolve({ kind: error.code === 'ERR_BUFFER_TOO_LARGE' ? 'too-big' : 'damaged' })
    })
  })
}

type Decoder = (
  body: Buffer,
  options: { readonly maxOutputLength: number },
  done: (error: NodeJS.ErrnoException | null, unpacked: Buffer) => void,
) => void

function decoderFor(encoding: string, body: Buffer): Decoder | null {
  switch (encoding.trim().toLowerCase()) {
    case 'gzip':
    case 'x-gzip':
      return gunzip
    case 'br':
      return brotliDecompress
    case 'deflate':
      // Means zlib's format (RFC 1950, whose first two bytes have a checksum), but some servers send the bare one.
      return body.length > 1 && (body[0] ?? 0) % 16 === 8 && body.readUInt16BE() % 31 === 0 ? inflate : inflateRaw
    default:
      return null
  }
}
