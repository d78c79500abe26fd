/**
 * `POST /reload` of the admin port: 200 with the new generation, the settings that changed and those that wait for a restart, or 422
 * with what is wrong with the settings, while the old ones stay in force. Settings are named, never shown: values may be secret.
 */
import type { Random } from '../ports.ts'
import { type AdminRoute, json } from './admin.ts'

interface ReloadParts {
  readonly random: Random
  readonly reload: () =>
    | {
        readonly result: 'applied' | 'restart'
        readonly generation: number
        readonly changed: readonly string[]
        readonly waiting: readonly string[]
      }
    | { readonly result: 'invalid'; readonly generation: number; readonly mistakes: readonly string[] }
}

export function createReloadRoute({ random, reload }: ReloadParts): AdminRoute {
  return {
    method: 'POST',
    path: '/reload',
    run() {
      const reloaded = reload()
      const { result, generation } = reloaded
      if (result !== 'invalid') {
        const { changed, waiting } = reloaded
        const answer = { generation, changed, ...(waiting.length > 0 && { waiting_for_restart: waiting }) }
        return {
          ...json(answer),
          acted: { action: 'reload', what: { result, generation, changed: changed.join(', ') } },
        }
      }
      const { mistakes } = reloaded
      const acted = { action: 'reload', what: { result, generation } } as const
      const problem = {
        type: 'urn:scrapellm-proxy:error:CONFIG_INVALID',
        title: 'Invalid settings',
        status: 422,
        detail: `The settings in force stay as they are. ${mistakes.join(' ')}`,
        code: 'CONFIG_INVALID',
        request_id: random.id(),
        mistakes,
      }
      return { ...json(problem, 422), contentType: 'application/problem+json', acted }
    },
  }
}
