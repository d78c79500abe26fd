/** `price`: what a credit costs. */
import * as z from 'zod'
import { live, map } from '../field.ts'

export const price = map({
  credit: live(
    z
      .number({ error: 'expected a number, found {found}' })
      .min(0, { error: 'expected a number from 0 on, found {found}' }),
    'Price of one credit.',
  ),
  currency: live(
    z
      .string({ error: 'expected three letters such as USD, found {found}' })
      .regex(/^[A-Z]{3}$/, { error: 'expected three letters such as USD, found {found}' }),
    'Currency of the price, three letters (ISO 4217).',
  ),
})
