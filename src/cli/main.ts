#!/usr/bin/env node
/** The executable `romulus`. Everything it does is in program.ts. */
import { collectAlone } from './collect-alone.ts';

collectAlone(process.argv);
// Loaded only by who stays.
const { main } = await import('./program.ts');
process.exitCode = await main(process.argv);
