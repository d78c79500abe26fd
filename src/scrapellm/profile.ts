/**
 * All that is known about the vendor, gathered into the one `Profile` that is plugged into the pipeline. Pure; knows neither
 * sockets nor storage nor policy.
 */
import type { Call, ProxyRequest, Target } from '../model.ts'
import type { Profile } from '../parts.ts'
import { replay } from './answers.ts'
import { classify } from './classify.ts'
import { redact, sign } from './credentials.ts'
import { priceOf } from './credits.ts'
import { findEndpoint, scrapers } from './endpoints.ts'
import type { Endpoint } from './endpoints.ts'
import { jobs } from './jobs.ts'
import { readParams, readQuestion } from './params.ts'

export interface ProfileOptions {
  /** Of the proxy, for `User-Agent`. */
  readonly version: string
}

export function createProfile(options: ProfileOptions, clock: { wall(): number }): Profile {
  const userAgent = `scrapellm-proxy/${options.version}`

  return {
    vendor: 'ScrapeLLM',
    scrapers,
    read,
    sign: (call, turn, key, identity) => sign(call, turn, key, identity, userAgent),
    classify(call, result, key) {
      const clean = result.kind === 'reply' ? { ...result, reply: redact(result.reply, key.secret) } : result
      return classify(call, clean, clock.wall())
    },
    jobs,
    replay,
  }

  /** A path belongs to one endpoint, and so a target to one call, whichever of the endpoint's methods it came with. */
  function read({ method, target, sample = null }: ProxyRequest): Call {
    const endpoint = findEndpoint(target.path, method)
    if (sample !== null) return callOf(endpoint, target, sample)
    return (target.call ??= Object.freeze(callOf(endpoint, target, null)))
  }
}

function callOf({ kind, method, scraper }: Endpoint, { path, params }: Target, sample: number | null): Call {
  const call = { endpoint: kind, method, scraper, path, params, priceCredits: priceOf(scraper) }
  if (kind === 'status') {
    readParams(params)
    const own = params.filter(([name]) => name !== 'sample')
    return { ...call, params: own, key: null, bypass: false, timeoutMs: null, promptHash: null, country: null }
  }
  const question = readQuestion(scraper, params, sample)
  // Two who submit the same want two jobs.
  return { ...call, ...question, key: kind === 'submit' ? null : question.key }
}
