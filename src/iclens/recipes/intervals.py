from iclens.intervals import LEVEL as LEVEL
from iclens.intervals import Estimate as Estimate
from iclens.intervals import estimate as estimate
