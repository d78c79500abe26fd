/**
 * Small requests of our own: notifications to places that the operator has named, and a question to the admin port of a proxy that
 * runs. Redirects are never followed: whoever answers must not choose where a signed body goes next.
 */
import { X509Certificate } from 'node:crypto'
import { Agent, ProxyAgent, request } from 'undici'
import type { World } from '../ports.ts'

const headersOfOurs = { 'user-agent': 'scrapellm-proxy' }

/** Never rejects; null = no complete answer in time. */
export const postWebhook: World['post'] = async (url, { body, headers, timeoutMs, proxy = null }) => {
  const dispatcher = proxy
    ? new ProxyAgent({ uri: proxy.url, ...(proxy.authorization === null ? {} : { token: proxy.authorization }) })
    : new Agent()
  try {
    const answer = await request(url, {
      method: 'POST',
      headers: { ...headers, ...headersOfOurs },
      body,
      dispatcher,
      signal: AbortSignal.timeout(timeoutMs),
    })
    await answer.body.dump()
    return answer.statusCode
  } catch {
    return null
  } finally {
    await dispatcher.destroy()
  }
}

/** Rejects when nobody answers. `certificate` (PEM) is the one that whoever answers must show, under any name and by any issuer; null = as usual. */
export async function getText(
  url: string,
  {
    headers,
    certificate,
    timeoutMs,
  }: {
    readonly headers: Readonly<Record<string, string>>
    readonly certificate: string | null
    readonly timeoutMs: number
  },
): Promise<{ readonly status: number; readonly text: string }> {
  const dispatcher = new Agent(certificate === null ? {} : { connect: pinnedTo(certificate) })
  try {
    const answer = await request(url, {
      headers: { ...headers, ...headersOfOurs },
      dispatcher,
      signal: AbortSignal.timeout(timeoutMs),
    })
    return { status: answer.statusCode, text: await answer.body.text() }
  } finally {
    await dispatcher.destroy()
  }
}

/** The files of a certificate need not hold its issuer, and name the host as callers do, not the address it listens on. */
function pinnedTo(pem: string) {
  const wanted = new X509Certificate(pem).fingerprint256
  return {
    ca: pem,
    allowPartialTrustChain: true,
    checkServerIdentity: (_host: string, { fingerprint256 }: { readonly fingerprint256: string }) =>
      fingerprint256 === wanted ? undefined : new Error('Another certificate is shown.'),
  }
}
