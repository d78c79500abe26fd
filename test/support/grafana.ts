/** The dashboards and rules as they are on the disk, and what their expressions name. */
import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parse } from 'yaml'

export interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly description?: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly targets?: readonly { readonly refId: string; readonly expr: string }[]
  readonly fieldConfig?: { readonly defaults: PanelDefaults }
}

interface PanelDefaults {
  readonly unit?: string
  readonly max?: number
  readonly thresholds?: { readonly steps: readonly { readonly value: number | null; readonly color: string }[] }
}

export interface Dashboard {
  readonly uid: string
  readonly tags: readonly string[]
  readonly links: readonly { readonly type: string; readonly tags: readonly string[]; readonly includeVars: boolean }[]
  readonly schemaVersion: number
  readonly panels: readonly Panel[]
  readonly annotations: { readonly list: readonly { readonly expr?: string }[] }
  readonly templating: {
    readonly list: readonly { readonly name: string; readonly definition?: string; readonly multi?: boolean }[]
  }
}

export interface Rule {
  readonly record?: string
  readonly alert?: string
  readonly expr: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
}

export interface Use {
  readonly name: string
  readonly matchers: readonly { readonly label: string; readonly values: readonly string[] }[]
  /** The labels that its expression groups by. */
  readonly grouped: readonly string[]
}

const folder = new URL('../../grafana/', import.meta.url)
export const rulesFolder = fileURLToPath(new URL('rules/', folder))

export function read(path: string): string {
  return readFileSync(new URL(path, folder), 'utf8')
}

/** File name and content. */
export const dashboards = readdirSync(new URL('dashboards/', folder))
  .filter((name) => name.endsWith('.json'))
  .map((name): [string, Dashboard] => [name, JSON.parse(read(`dashboards/${name}`)) as Dashboard])

const inRules = readdirSync(rulesFolder)
export const ruleFiles = inRules.filter((name) => !name.endsWith('.test.yaml'))
export const ruleTests = inRules.filter((name) => name.endsWith('.test.yaml'))
export const rules = ruleFiles.flatMap((name) => {
  const { groups } = parse(read(`rules/${name}`)) as { groups: readonly { readonly rules: readonly Rule[] }[] }
  return groups.flatMap((group) => group.rules)
})

const names =
  /(?<![\w:"])((?:job:scrapellm_proxy|scrapellm_proxy|process|nodejs|scrape)_[\w:]+|ALERTS\b|up\b)(?:\{([^}]*)\})?/g

/** Each metric of an expression, with its matchers and the labels it is grouped by. */
export function usesIn(expr: string): readonly Use[] {
  const grouped = [...expr.matchAll(/\b(?:by|on) \(([^)]*)\)/g)].flatMap(([, labels = '']) => labels.split(/, */))
  return [...expr.matchAll(names)].map(([, name = '', matchers = '']) => ({
    name,
    grouped,
    matchers: [...matchers.matchAll(/(\w+)(=~|!~|!=|=)"([^"]*)"/g)].map(([, label = '', , value = '']) => ({
      label,
      values: value.startsWith('$') ? [] : value.split('|'),
    })),
  }))
}

/** Every query of its panels, marks and variables. */
export function expressionsOf({ panels, annotations, templating }: Dashboard): readonly string[] {
  return [
    ...panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)),
    ...annotations.list.flatMap(({ expr }) => expr ?? []),
    ...templating.list.flatMap(({ definition }) => {
      const [, metric, label] = /^label_values\((\w+), (\w+)\)$/.exec(definition ?? '') ?? []
      return metric ? [`count by (${label}) (${metric})`] : []
    }),
  ]
}
