/** Certificates in files: which are refused and with what advice, which are warned about, and how they are followed. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import t from 'tap'
import {
  authorityFlaw,
  type CertificateNews,
  certificateWarnings,
  followCertificate,
  pairFlaws,
} from '../../src/config/certificate.ts'
import { loadConfig } from '../../src/config/load.ts'
import { anAuthority, type Issued } from '../support/certificates.ts'
import { fakeClock } from '../support/world.ts'

const readFile = (path: string): string => readFileSync(path, 'utf8')
const day = 86_400_000

void t.test('a pair that fits has no flaw; another key, an encrypted one, or none does', async (t) => {
  const { issue, ca } = anAuthority(t)
  const [one, other] = [issue('one'), issue('other')]
  t.strictSame(pairFlaws(one, readFile), [])
  t.match(pairFlaws({ ...one, key: other.key }, readFile), [{ of: 'key', text: /other-key.pem does not belong to/ }])
  t.match(pairFlaws({ ...one, key: one.cert }, readFile), [{ of: 'key', text: /holds no private key/ }])
  t.match(pairFlaws({ ...one, cert: one.key }, readFile), [{ of: 'cert', text: /holds no certificate/ }])
  t.match(pairFlaws({ cert: '/no/c', key: '/no/k' }, readFile), [
    { of: 'cert', text: '/no/c cannot be read (no such file); correct the path, or let this user read the file' },
    { of: 'key', text: /no such file/ },
  ])
  const locked = `${one.key}.locked`
  const cipher = ['-aes256', '-passout', 'pass:secret']
  execFileSync('openssl', ['pkey', '-in', one.key, ...cipher, '-out', locked])
  t.match(pairFlaws({ ...one, key: locked }, readFile), [{ of: 'key', text: /is encrypted.*openssl pkey/ }])
  t.equal(authorityFlaw(ca, readFile), null)
  t.match(authorityFlaw(one.key, readFile), /holds no certificate/)
})

void t.test('an expired certificate, or one that soon will be, is warned about', async (t) => {
  const { issue } = anAuthority(t)
  const warned = (files: Issued, laterMs = 0): readonly string[] => {
    const text = `listen: { tls: { cert: "${files.cert}", key: "${files.key}" } }`
    const { config } = loadConfig([{ name: 'x', text }], [], { SCRAPELLM_API_KEY: 'a-key' }, readFile)
    return certificateWarnings(config, readFile, Date.now() + laterMs)
  }
  const good = issue('good', ['DNS:localhost'], 60)
  t.strictSame(warned(good), [])
  t.match(warned(good, 50 * day), [/^listen\.tls\.cert expires on .*; renew it/])
  t.match(warned(good, 61 * day), [/^listen\.tls\.cert expired on .*renew it/])
  t.match(warned(good, -1 * day), [/is not valid before/])
  t.match(warned(issue('old', ['DNS:localhost'], -1)), [/expired/])
})

function followed(first: Issued) {
  const clock = fakeClock()
  const news: CertificateNews[] = []
  const changes: ((text: string | null) => void)[] = []
  const source = followCertificate({
    path: 'listen.tls',
    files: first,
    watch(path, onChange) {
      onChange(readFile(path))
      changes.push(onChange)
      return { close: () => void changes.splice(0) }
    },
    clock,
    tell: (one) => news.push(one),
  })
  const [cert = () => {}, key = () => {}] = changes
  return { clock, news, source, cert, key, changes }
}

void t.test('a new pair takes over when both its files are there, and nothing is said in between', async (t) => {
  const { issue } = anAuthority(t)
  const next = issue('next')
  const { clock, news, source, cert, key, changes } = followed(issue('first'))
  const seen: string[] = []
  source.onChange((pair) => seen.push(pair.cert))
  cert(readFile(next.cert))
  await clock.advance(5_000)
  t.not(source.now.cert, readFile(next.cert), 'it has no key yet')
  key(readFile(next.key))
  t.equal(source.now.cert, readFile(next.cert))
  t.strictSame(seen, [readFile(next.cert)])
  await clock.advance(60_000)
  t.match(news, [{ kind: 'replaced', validUntil: source.now.validUntil }])
  source.close()
  t.equal(changes.length, 0)
  t.equal(clock.timers, 0)
})

void t.test('a bad new one changes nothing and is told once', async (t) => {
  const { issue } = anAuthority(t)
  const first = issue('first')
  const { clock, news, source, cert } = followed(first)
  for (const bad of ['rubbish', null]) {
    cert(bad)
    await clock.advance(60_000)
    t.equal(source.now.cert, readFile(first.cert))
  }
  t.match(news, [{ kind: 'kept', because: /^listen\.tls\.cert: .*first\.pem holds no certificate/ }, { kind: 'kept' }])
  cert(readFile(first.cert))
  await clock.advance(60_000)
  t.equal(news.length, 2, 'back to what it was')
})

void t.test('without a good pair there is no start', async (t) => {
  const { issue } = anAuthority(t)
  const [one, other] = [issue('one'), issue('other')]
  t.throws(() => followed({ cert: one.cert, key: other.key }), /^listen\.tls\.key: .*does not belong/)
})
