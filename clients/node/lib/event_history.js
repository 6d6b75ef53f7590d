'use strict';

// The events that browsers get which connect again, and browsers that connect for the first time.

/** A place in the history of a channel as the id of an event. */
function idOf({ epoch, offset }) {
  return `${epoch}:${offset}`;
}

/** Returns the place that an id is, or null. Anything may come from a browser. */
function placeOf(id) {
  const [, epoch, digits] = /^([^]+):(\d{1,16})$/.exec(id) ?? [];
  const offset = Number(digits);
  return Number.isSafeInteger(offset) ? { epoch, offset } : null;
}

/**
 * The last events, within limits. Of a channel with a history they are the server's, and their places say which event
 * comes after which; otherwise they are what came while this process was subscribed.
 */
class EventHistory {
  constructor(entriesMax, bytesMax) {
    this.entriesMax = entriesMax;
    this.bytesMax = bytesMax;
    this.clear();
  }

  clear() {
    this.entries = [];
    this.bytes = 0;
    /** The place behind which everything is here or will come, and that of the newest message; null without any. */
    this.floor = null;
    this.newest = null;
  }

  /** Notes that `kept` messages will come from before the subscription, all those behind a place. */
  begin(place, kept) {
    this.floor = place;
    this.newest = place && { epoch: place.epoch, offset: place.offset + kept };
  }

  /** @param {{ id: string | null, text: Buffer, place: object | null }} entry a gap has no id */
  add(entry) {
    const { place } = entry;
    if (place !== null && !isUpTo(place, this.newest)) this.newest = place;
    this.entries.push(entry);
    this.bytes += entry.text.length;
    while (this.entries.length > 0 && (this.entries.length > this.entriesMax || this.bytes > this.bytesMax)) {
      const first = this.entries.shift();
      this.bytes -= first.text.length;
      this.floor = first.place ?? this.floor;
    }
  }

  /** Returns the events after the one with this id, or null if they are no longer known. */
  after(id) {
    const at = this.entries.findLastIndex((entry) => entry.id === id);
    if (at !== -1) return this.entries.slice(at + 1);
    // The event itself may be on its way, or be one that only another process has sent.
    const place = placeOf(id);
    if (place === null || !isUpTo(place, this.newest)) return null;
    const before = this.entries.findLastIndex((entry) => isUpTo(entry.place, place));
    if (before !== -1) return this.entries.slice(before + 1);
    return isUpTo(this.floor, place) ? this.entries : null;
  }

  /** Returns how many messages are missing behind the event with this id, or null. */
  missedAfter(id) {
    const place = placeOf(id);
    return place !== null && isUpTo(place, this.floor) ? this.floor.offset - place.offset : null;
  }

  /** Returns the newest events, so many of each channel. */
  latest(count) {
    const counts = new Map();
    const found = [];
    for (let at = this.entries.length - 1; at >= 0 && count > 0; at -= 1) {
      const entry = this.entries[at];
      const before = counts.get(entry.channel) ?? 0;
      if (entry.id !== null && before < count) {
        counts.set(entry.channel, before + 1);
        found.push(entry);
      }
    }
    return found.reverse();
  }
}

/** Returns whether a place is the other one or comes before it, which is known within an epoch only. */
function isUpTo(place, other) {
  return place !== null && other !== null && place.epoch === other.epoch && place.offset <= other.offset;
}

module.exports = { EventHistory, idOf, placeOf, isUpTo };
