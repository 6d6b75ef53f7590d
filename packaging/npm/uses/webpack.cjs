'use strict';

// Bundles both programs as their own kind of module, minified.

const path = require('node:path');
const webpack = require('webpack');

const bundle = (entry, filename, isModule) => ({
  mode: 'production',
  target: 'node18',
  entry: path.join(__dirname, entry),
  experiments: { outputModule: isModule },
  output: {
    path: path.join(__dirname, 'bundled'),
    filename,
    ...(isModule ? { module: true, chunkFormat: 'module' } : {}),
  },
});

webpack([bundle('page.mjs', 'webpack.mjs', true), bundle('common.cjs', 'webpack.cjs', false)], (error, stats) => {
  if (error) throw error;
  const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true });
  if (errors.length + warnings.length > 0) throw new Error(JSON.stringify([errors, warnings], null, 2));
});
