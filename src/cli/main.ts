#!/usr/bin/env node
/** The executable `romulus`. Everything it does is in program.ts. */
import { main } from './program.ts';

process.exitCode = await main(process.argv);
