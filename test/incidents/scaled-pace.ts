/** Loaded into the program before it begins: the minute below which upstream is never slow is as fast as that of the rules. */
import { slowness } from '../../src/telemetry/pace.ts'
import { SPEED } from './scaled.ts'

slowness.floorMs /= SPEED
